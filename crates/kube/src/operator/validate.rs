//! The second step: from what was asked for and found to what is to be, or to a refusal that says why. Pure. After it
//! nobody reads the object's spec.

use atoll_core::{error::Invalid, reach::check_policy};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

use super::{dereference::Found, registry::ImageAnswer, settings::Settings};
use crate::{
    convert::{self, Resolved, Surroundings, network_in},
    crd::{DesiredState, Sandbox},
    names::{NEW, OWNER_LABEL, VOLUME, claim, held, id_of},
};

/// Code of the refusal of an identifier that an older sandbox has.
const ID_TAKEN: &str = "id_taken";

/// Why a sandbox cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs: `invalid`, `template_not_found`, `image_not_found`, …
    pub code: &'static str,
    /// For people: what is wrong and what to do.
    pub message: String,
}

impl Refusal {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::new("invalid", invalid.to_string())
    }
}

/// A sandbox that can be.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Name of its object.
    pub name: String,
    /// Namespace of everything that belongs to it.
    pub namespace: String,
    /// Makes the cluster remove what belongs to it when its object is gone.
    pub owner_reference: OwnerReference,
    /// What was decided.
    pub resolved: Resolved,
    /// When it ends.
    pub deadline: Option<Timestamp>,
    /// How it should be.
    pub want: DesiredState,
    /// Its volumes' claims, by volume; those that are there have their size.
    pub claims: BTreeMap<String, Claim>,
}

/// A claim of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// What it asks for now, as the cluster writes it; `None` when it is not there.
    pub size: Option<String>,
    /// Whether no sandbox has run with it yet.
    pub new: bool,
}

impl Validated {
    /// The sandbox's identifier.
    #[must_use]
    pub fn id(&self) -> &str {
        self.resolved.spec.id.as_str()
    }

    /// Whether it has volumes, and so a StatefulSet.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        !self.resolved.spec.volumes.is_empty()
    }

    /// The name of its pod.
    #[must_use]
    pub fn pod(&self) -> String {
        if self.is_persistent() { format!("{}-0", self.id()) } else { self.id().to_owned() }
    }
}

/// Puts everything together.
///
/// # Errors
/// Says what cannot be.
pub fn validate(
    sandbox: &Sandbox,
    tenant: &str,
    found: &Found,
    settings: &Settings,
) -> Result<Validated, Refusal> {
    check_identifier(sandbox, found)?;
    let mut resolved = match &found.resolved {
        Some(resolved) => resolved.clone(),
        None => first(sandbox, tenant, found, settings)?,
    };
    if let Some(network) = &sandbox.spec.recipe.network {
        resolved.spec.network = network_in(Some(network))?;
    }
    check_policy(&resolved.spec.network, settings.private_egress)?;
    check_holders(found)?;
    check_owners(&resolved, tenant, found)?;
    let claims = claims(&resolved, tenant, found);
    Ok(Validated {
        name: sandbox.name_any(),
        namespace: sandbox.namespace().unwrap_or_default(),
        owner_reference: sandbox.controller_owner_ref(&()).unwrap_or_default(),
        deadline: convert::deadline(sandbox, Some(&resolved)),
        resolved,
        want: sandbox.spec.state.unwrap_or_default(),
        claims,
    })
}

/// What is looked at once, when a sandbox is new.
fn first(sandbox: &Sandbox, tenant: &str, found: &Found, settings: &Settings) -> Result<Resolved, Refusal> {
    let spec = &sandbox.spec;
    if let (Some(name), None) = (&spec.template, &found.template) {
        let message = format!("there is no SandboxTemplate {name:?} in this namespace or the platform's");
        return Err(Refusal::new("template_not_found", message));
    }
    if let Some(name) = &found.no_runtime {
        return Err(Refusal::new(
            "runtime_class_not_found",
            format!("there is no RuntimeClass {name:?}; see spec.runtime of the template"),
        ));
    }
    if let Some(name) = &found.no_storage {
        return Err(Refusal::new(
            "storage_class_not_found",
            format!("there is no StorageClass {name:?}; see spec.pod.storageClass of the template"),
        ));
    }
    let around = Surroundings { tenant, strict: found.strict, capacity: settings.capacity };
    let mut resolved = convert::resolve(sandbox, found.template.as_ref(), &around)?;
    check_image(&settings.image(&resolved.spec.image), tenant, settings)?;
    match &found.image {
        Some(ImageAnswer::Missing(why)) => return Err(Refusal::new("image_not_found", why.clone())),
        Some(ImageAnswer::Found(image)) => resolved.image = Some(image.clone()),
        Some(ImageAnswer::Silent(_)) | None => {}
    }
    debug_assert_eq!(resolved.spec.id, id_of(sandbox), "an identifier never changes");
    Ok(resolved)
}

/// Images must come from where the platform lets this tenant's come from.
fn check_image(image: &str, tenant: &str, settings: &Settings) -> Result<(), Refusal> {
    let allowed = &settings.allowed_images;
    let begins = |prefix: &String| image.starts_with(&prefix.replace("{tenant}", tenant));
    if allowed.is_empty() || allowed.iter().any(begins) {
        return Ok(());
    }
    let list = allowed.iter().map(|it| it.replace("{tenant}", tenant)).collect::<Vec<_>>().join(", ");
    Err(Refusal::new(
        "image_not_allowed",
        format!("image {image} is not one of this tenant's; they begin with: {list}"),
    ))
}

/// What was refused an identifier once never gets it: whoever knew the one that had it would reach the other.
fn check_identifier(sandbox: &Sandbox, found: &Found) -> Result<(), Refusal> {
    let said = sandbox.status.as_ref().and_then(|status| Some(status.reason.as_ref()?.code.as_str()));
    if found.resolved.is_none() && (found.rival || said == Some(ID_TAKEN)) {
        let message = "its name is the identifier of another sandbox; make one of another name";
        return Err(Refusal::new(ID_TAKEN, message));
    }
    match found.taken {
        false => Ok(()),
        true => Err(Refusal::new(
            "name_in_use",
            format!("there is a pod or StatefulSet {} that is not this sandbox's", id_of(sandbox)),
        )),
    }
}

/// Users' volumes are told apart by what their claims are labelled with: `a-b` of `c` has the same claim as `a` of `b-c`.
fn check_owners(resolved: &Resolved, tenant: &str, found: &Found) -> Result<(), Refusal> {
    let Some(owner) = &resolved.spec.owner else { return Ok(()) };
    let label = atoll_core::owner::label(tenant, owner);
    for volume in &resolved.spec.volumes {
        let name = claim(&volume.name, &label);
        let Some(there) = found.claims.get(&name) else { continue };
        let says = |key, value: &String| there.labels().get(key).is_none_or(|it| it == value);
        if !says(OWNER_LABEL, &label) || !says(VOLUME, &volume.name) {
            let message =
                format!("volumes.{}: its claim {name} is another user's; rename the volume", volume.name);
            return Err(Refusal::new("volume_in_use", message));
        }
    }
    Ok(())
}

/// One sandbox has a volume at a time.
fn check_holders(found: &Found) -> Result<(), Refusal> {
    match found.holders.iter().next() {
        None => Ok(()),
        Some((claim, holder)) => Err(Refusal::new("volume_in_use", held(claim, holder))),
    }
}

fn claims(resolved: &Resolved, tenant: &str, found: &Found) -> BTreeMap<String, Claim> {
    let Some(owner) = &resolved.spec.owner else { return BTreeMap::new() };
    let label = atoll_core::owner::label(tenant, owner);
    let size = |name: &str| {
        let requests = found.claims.get(name)?.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        Some(requests.get("storage")?.0.clone())
    };
    let new = |name: &str| found.claims.get(name).is_none_or(|claim| claim.annotations().contains_key(NEW));
    let one = |volume: &atoll_core::volume::Volume| {
        let name = claim(&volume.name, &label);
        (volume.name.clone(), Claim { size: size(&name), new: new(&name), name })
    };
    resolved.spec.volumes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Reason, SandboxStatus};
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    #[test]
    fn an_identifier_that_was_refused_stays_refused() {
        let mut sandbox = Sandbox::new("i0123456789abcdefghi", Default::default());
        let refused = |sandbox: &Sandbox, rival: bool, taken: bool| {
            let found = Found { rival, taken, ..Found::default() };
            check_identifier(sandbox, &found).err().map(|it| it.code)
        };
        assert_eq!(refused(&sandbox, false, false), None);
        assert_eq!(refused(&sandbox, true, true), Some(ID_TAKEN));
        assert_eq!(refused(&sandbox, false, true), Some("name_in_use"));
        let reason = Some(Reason { code: ID_TAKEN.into(), message: String::new() });
        sandbox.status = Some(SandboxStatus { reason, ..SandboxStatus::default() });
        assert_eq!(refused(&sandbox, false, false), Some(ID_TAKEN), "also when the other is gone");
    }

    #[test]
    fn two_users_whose_volumes_share_a_claim_are_told_apart() {
        let mut spec = atoll_core::testing::sandbox(1).spec;
        spec.owner = Some("c".into());
        spec.volumes = vec![atoll_core::volume::Volume {
            name: "a-b".into(),
            path: "/home/c".into(),
            size: atoll_core::quantity::Bytes(1 << 20),
        }];
        let resolved = Resolved { spec, deadline: None, pod: Default::default(), image: None };
        let refused = |labels: &[(&str, &str)]| {
            let mut there = PersistentVolumeClaim::default();
            there.metadata.labels =
                Some(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
            let found = Found { claims: [("a-b-c".into(), there)].into(), ..Found::default() };
            check_owners(&resolved, "default", &found).is_err()
        };
        assert!(!refused(&[(OWNER_LABEL, "c"), (VOLUME, "a-b")]));
        assert!(refused(&[(OWNER_LABEL, "b-c"), (VOLUME, "a")]));
        assert!(!refused(&[]), "one that an administrator made");
    }
}
