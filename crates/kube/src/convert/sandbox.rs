//! Between a Sandbox object and core's sandbox. Pure.

use atoll_core::{
    error::Invalid,
    request::{Birth, Capacity, CreateRequest, Ttl},
    sandbox,
    template::Template,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::recipe::{lifecycle_out, network_in, network_out, overlaid, recipe_in, requests_in, template_out};
use crate::{
    crd::{
        DesiredState, ImageMeta, Phase, PodSettings, Reason, Recipe, Requests, Sandbox, SandboxSpec,
        SandboxTemplate, Volume,
    },
    names::{EGRESS, FINALIZER, ID, MANAGED_BY, OWNER_LABEL, TENANT, VOLUME, id_of},
};

/// What was decided when a sandbox was made, as its status keeps it: a template that changes or goes away later changes
/// nothing about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// The sandbox, in core's words.
    pub spec: sandbox::SandboxSpec,
    /// Its deadline, unless the object names another.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// What an administrator said about its pod.
    #[serde(default)]
    pub pod: PodSettings,
    /// What the registry said about its image, where it was asked.
    #[serde(default)]
    pub image: Option<ImageMeta>,
}

/// What else it depends on how a sandbox is resolved.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// The tenant of its namespace.
    pub tenant: &'a str,
    /// Whether the tenant is a strict one: no root inside.
    pub strict: bool,
    /// What one sandbox may have.
    pub capacity: Capacity,
}

/// Puts a Sandbox object and its template together.
///
/// # Errors
/// Names the first field that cannot be.
pub fn resolve(
    it: &Sandbox,
    template: Option<&SandboxTemplate>,
    around: &Surroundings<'_>,
) -> Result<Resolved, Invalid> {
    let under = template.map(|it| it.spec.recipe.clone()).unwrap_or_default();
    let mut recipe = recipe_in(&overlaid(under, it.spec.recipe.clone()))?;
    recipe.labels = template.map(|it| it.spec.labels.clone()).unwrap_or_default();
    recipe.runtime = template.and_then(|it| it.spec.runtime.clone());
    if around.strict && recipe.sudo == Some(true) {
        let problem = "this tenant is a strict one: no root inside; set it to false, or use another template";
        return Err(Invalid::new("sudo", problem));
    }
    recipe.sudo = Some(recipe.sudo.unwrap_or(!around.strict));
    let version = template.and_then(|it| it.metadata.generation).unwrap_or_default();
    let named = template.map(|it| (it.name_any(), version));
    let recipe = Template { name: it.name_any(), version, spec: recipe, created_at: Timestamp::UNIX_EPOCH };
    let birth = Birth { id: id_of(it), tenant: around.tenant.to_owned(), at: created_at(it) };
    let made = atoll_core::request::resolve(request(it), Some(&recipe), &around.capacity, birth)?;
    let mut spec = made.spec;
    (spec.template, spec.template_version) = named.unzip();
    let pod = template.and_then(|it| it.spec.pod.clone()).unwrap_or_default();
    let image = template.and_then(|it| it.status.clone()?.image);
    let image = image.filter(|image| image.reference == spec.image);
    Ok(Resolved { spec, deadline: made.deadline, pod, image })
}

/// What the object itself asks for: above the capacity that is refused, where a template's is clamped.
fn request(it: &Sandbox) -> CreateRequest {
    let recipe = &it.spec.recipe;
    let never = recipe.lifecycle.as_ref().is_some_and(|it| it.ttl_seconds == Some(0));
    CreateRequest {
        cpu: recipe.cpu.clone(),
        memory: recipe.memory.clone(),
        disk: recipe.disk.clone(),
        requests: requests_in(recipe.requests.as_ref()),
        owner: it.spec.owner.clone(),
        labels: own_labels(it.labels()),
        ttl: if never { Ttl::Never } else { Ttl::Template },
        metadata: it.spec.metadata.clone(),
        agent_open: it.spec.agent_open,
        mask_host: it.spec.mask_host.clone(),
        https_ports: it.spec.https_ports.clone(),
        ..CreateRequest::default()
    }
}

/// The caller's labels: all but the platform's. What the server marks its sandboxes with is among them.
fn own_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = |key: &str| [ID, OWNER_LABEL, TENANT, EGRESS, VOLUME, MANAGED_BY].contains(&key);
    labels.iter().filter(|(key, _)| !ours(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn created_at(it: &Sandbox) -> Timestamp {
    it.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |at| at.0)
}

/// When it ends at the latest: what the object says, otherwise what was decided.
#[must_use]
pub fn deadline(it: &Sandbox, resolved: Option<&Resolved>) -> Option<Timestamp> {
    let never = it.spec.recipe.lifecycle.as_ref().is_some_and(|it| it.ttl_seconds == Some(0));
    match &it.spec.deadline {
        Some(at) => Some(at.0),
        None if never => None,
        None => resolved.and_then(|resolved| resolved.deadline),
    }
}

/// The sandbox as the rest of the platform sees it; also one that the operator has not looked at yet.
#[must_use]
pub fn to_core(it: &Sandbox, tenant: &str) -> sandbox::Sandbox {
    let status = it.status.clone().unwrap_or_default();
    let resolved: Option<Resolved> = status.resolved.and_then(|it| serde_json::from_value(it).ok());
    let deadline = deadline(it, resolved.as_ref());
    let mut spec = resolved.map_or_else(|| unresolved(it, tenant), |resolved| resolved.spec);
    if let Ok(network) = network_in(it.spec.recipe.network.as_ref())
        && it.spec.recipe.network.is_some()
    {
        spec.network = network;
    }
    let created = created_at(it);
    let mut made = sandbox::Sandbox::new(spec, deadline);
    made.phase = match (it.metadata.deletion_timestamp.is_some(), status.phase) {
        (true, _) => atoll_core::phase::Phase::Terminating,
        (false, Some(phase)) => phase_in(phase),
        (false, None) => made.phase,
    };
    made.since = status.since.unwrap_or(created);
    made.last_activity = status.last_activity.unwrap_or(created).max(made.since);
    made.reason = status.reason.map_or(made.reason, reason_in);
    if !status.history.is_empty() {
        made.history = status.history.into_iter().map(transition_in).collect();
    }
    made
}

/// As much as the object itself says.
fn unresolved(it: &Sandbox, tenant: &str) -> sandbox::SandboxSpec {
    const ROOM: Capacity = Capacity {
        cpu: atoll_core::quantity::MilliCpu(u64::MAX),
        memory: atoll_core::quantity::Bytes(u64::MAX),
        disk: atoll_core::quantity::Bytes(u64::MAX),
        pids: u64::MAX,
    };
    let around = Surroundings { tenant, strict: false, capacity: ROOM };
    let mut named = it.clone();
    named.spec.recipe.image.get_or_insert_with(|| "unknown".into());
    let mut plain = named.clone();
    plain.spec = SandboxSpec {
        recipe: Recipe { image: named.spec.recipe.image.clone(), ..Recipe::default() },
        ..SandboxSpec::default()
    };
    let resolved = resolve(&named, None, &around).or_else(|_| resolve(&plain, None, &around));
    let mut spec =
        resolved.map_or_else(|refused| unreachable!("an image is enough: {refused}"), |it| it.spec);
    spec.template.clone_from(&it.spec.template);
    spec
}

/// The object that asks for a sandbox. It says everything itself, so that what was promised is what is made, whatever
/// becomes of the template meanwhile; the template is named for what only an administrator decides.
#[must_use]
pub fn from_core(it: &sandbox::Sandbox, namespace: &str) -> Sandbox {
    let spec = &it.spec;
    let mut lifecycle = lifecycle_out(&spec.lifecycle);
    if it.deadline.is_none() {
        lifecycle.ttl_seconds = Some(0);
    }
    let recipe = Recipe {
        image: Some(spec.image.clone()),
        cpu: Some(spec.limits.cpu.to_string()),
        memory: Some(spec.limits.memory.to_string()),
        disk: Some(spec.limits.disk.to_string()),
        requests: Some(Requests {
            cpu: Some(spec.requests.cpu.to_string()),
            memory: Some(spec.requests.memory.to_string()),
        }),
        pids: i64::try_from(spec.limits.pids).ok(),
        env: spec.env.clone(),
        start_command: spec.start_command.clone(),
        ready_command: spec.ready_command.clone(),
        user: spec.user.clone(),
        workdir: spec.workdir.clone(),
        ports: spec.ports.clone(),
        volumes: spec.volumes.iter().map(volume_out).collect(),
        public: Some(spec.public),
        network: Some(network_out(&spec.network)),
        sudo: Some(spec.sudo),
        lifecycle: Some(lifecycle),
        executor: Some(spec.executor),
        ..template_out(&Default::default()).recipe
    };
    let asked = SandboxSpec {
        template: spec.template.clone(),
        owner: spec.owner.clone(),
        recipe,
        deadline: it.deadline.map(Time),
        metadata: spec.metadata.clone(),
        agent_open: spec.agent_open,
        mask_host: spec.mask_host.clone(),
        https_ports: spec.https_ports.clone(),
        state: Some(DesiredState::Running),
    };
    let mut object = Sandbox::new(spec.id.as_str(), asked);
    object.metadata.namespace = Some(namespace.to_owned());
    object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let labels = object.labels_mut();
    labels.extend(own_labels(&spec.labels));
    labels.insert(ID.to_owned(), spec.id.to_string());
    if let Some(owner) = &spec.owner {
        labels.insert(OWNER_LABEL.to_owned(), atoll_core::owner::label(&spec.tenant, owner));
    }
    object
}

fn volume_out(it: &atoll_core::volume::Volume) -> (String, Volume) {
    (it.name.clone(), Volume { path: it.path.clone(), size: Some(it.size.to_string()) })
}

/// A phase, in core's words.
#[must_use]
pub fn phase_in(phase: Phase) -> atoll_core::phase::Phase {
    use atoll_core::phase::Phase as Core;
    match phase {
        Phase::Creating => Core::Creating,
        Phase::Running => Core::Running,
        Phase::Paused => Core::Paused,
        Phase::Stopped => Core::Stopped,
        Phase::Failed => Core::Failed,
        Phase::Terminating => Core::Terminating,
    }
}

/// A phase, in the objects' words.
#[must_use]
pub fn phase_out(phase: atoll_core::phase::Phase) -> Phase {
    use atoll_core::phase::Phase as Core;
    match phase {
        Core::Creating => Phase::Creating,
        Core::Running => Phase::Running,
        Core::Paused => Phase::Paused,
        Core::Stopped => Phase::Stopped,
        Core::Failed => Phase::Failed,
        Core::Terminating => Phase::Terminating,
    }
}

fn reason_in(it: Reason) -> sandbox::Reason {
    sandbox::Reason::new(it.code, it.message)
}

fn transition_in(it: crate::crd::Transition) -> sandbox::Transition {
    sandbox::Transition { at: it.at, phase: phase_in(it.phase), reason: reason_in(it.reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{SandboxTemplateSpec, Volume};
    use atoll_core::testing::ROOM;

    const AROUND: Surroundings<'static> = Surroundings { tenant: "default", strict: false, capacity: ROOM };

    fn object(spec: SandboxSpec) -> Sandbox {
        let mut it = Sandbox::new("demo", spec);
        it.metadata.uid = Some("1-2-3".into());
        it.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        it
    }

    fn template() -> SandboxTemplate {
        let home = Volume { path: "/home/user".into(), size: None };
        let recipe = Recipe {
            image: Some("registry/base:1".into()),
            cpu: Some("64".into()),
            volumes: [("home".to_owned(), home)].into(),
            ..Recipe::default()
        };
        let mut it = SandboxTemplate::new("base", SandboxTemplateSpec { recipe, ..Default::default() });
        it.metadata.generation = Some(3);
        it
    }

    #[test]
    fn a_sandbox_of_a_template_is_resolved() {
        let asked =
            SandboxSpec { owner: Some("alice".into()), template: Some("base".into()), ..Default::default() };
        let made = resolve(&object(asked), Some(&template()), &AROUND).unwrap();
        assert_eq!((made.spec.template.as_deref(), made.spec.template_version), (Some("base"), Some(3)));
        assert_eq!(made.spec.volumes[0].path, "/home/user");
        assert_eq!(made.spec.limits.cpu, ROOM.cpu, "a template's is clamped");
        assert!(made.spec.sudo);
    }

    #[test]
    fn what_cannot_be_names_its_field() {
        let owner = || Some("alice".to_owned());
        let of = |recipe: Recipe, owner| object(SandboxSpec { recipe, owner, ..Default::default() });
        let refused = |it: &Sandbox| resolve(it, Some(&template()), &AROUND).unwrap_err().field;
        assert_eq!(refused(&of(Recipe { cpu: Some("65".into()), ..Default::default() }, owner())), "cpu");
        assert_eq!(refused(&of(Recipe::default(), None)), "owner");
        let strict = Surroundings { strict: true, ..AROUND };
        let root = of(Recipe { sudo: Some(true), ..Default::default() }, owner());
        assert_eq!(resolve(&root, Some(&template()), &strict).unwrap_err().field, "sudo");
        assert!(!resolve(&of(Recipe::default(), owner()), Some(&template()), &strict).unwrap().spec.sudo);
    }

    #[test]
    fn what_the_server_asks_for_is_what_the_operator_makes() {
        let mut asked = atoll_core::testing::sandbox(7);
        asked.spec.owner = Some("alice@example.com".into());
        asked.spec.labels.insert("team".into(), "blue".into());
        asked.spec.metadata.insert("any key".into(), "any text".into());
        (asked.spec.agent_open, asked.spec.mask_host) = (true, Some("localhost:${PORT}".into()));
        asked.spec.https_ports = vec![443];
        // Other people's APIs know their own sandboxes by it.
        asked.spec.labels.insert("atoll.dev/dialect".into(), "kata".into());
        asked.deadline = Some(Timestamp::from_second(9).unwrap());
        for deadline in [None, asked.deadline] {
            asked.deadline = deadline;
            let mut object = from_core(&asked, "tenant-default");
            object.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            let resolved = resolve(&object, None, &AROUND).unwrap();
            assert_eq!(resolved.spec, asked.spec);
            object.status = Some(crate::crd::SandboxStatus {
                resolved: Some(serde_json::to_value(&resolved).unwrap()),
                ..Default::default()
            });
            let seen = to_core(&object, "default");
            assert_eq!((&seen.spec, seen.deadline), (&asked.spec, asked.deadline));
        }
    }

    #[test]
    fn nobody_says_by_a_label_whose_a_sandbox_is() {
        let mut asked = atoll_core::testing::sandbox(7);
        asked.spec.owner = None;
        for key in [ID, OWNER_LABEL, TENANT] {
            asked.spec.labels.insert(key.into(), "another".into());
        }
        let object = from_core(&asked, "tenant-default");
        assert_eq!(object.labels().get(ID).map(String::as_str), Some(asked.id().as_str()));
        assert_eq!((object.labels().get(OWNER_LABEL), object.labels().get(TENANT)), (None, None));
    }

    #[test]
    fn one_that_nobody_looked_at_yet_is_seen_too() {
        let seen =
            to_core(&object(SandboxSpec { template: Some("base".into()), ..Default::default() }), "acme");
        assert_eq!((seen.spec.tenant.as_str(), seen.spec.template.as_deref()), ("acme", Some("base")));
        assert_eq!(seen.phase, atoll_core::phase::Phase::Creating);
        let bad = Recipe { cpu: Some("lots".into()), ..Recipe::default() };
        let seen = to_core(&object(SandboxSpec { recipe: bad, ..Default::default() }), "acme");
        assert_eq!(seen.spec.image, "unknown");
    }

    #[test]
    fn what_is_being_deleted_is_terminating() {
        let mut it = object(SandboxSpec::default());
        it.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(to_core(&it, "acme").phase, atoll_core::phase::Phase::Terminating);
    }

    #[test]
    fn an_identifier_is_never_lost() {
        let it = object(SandboxSpec::default());
        assert_eq!(to_core(&it, "acme").spec.id, id_of(&it));
    }
}
