//! Between the recipe of an object and core's template. Pure.

use atoll_core::{
    error::Invalid,
    network::{NetworkMode, NetworkPolicy},
    template::{self, LifecyclePolicy, RequestSpec, TemplateSpec},
    volume::VolumeSpec,
};

use crate::crd::{
    EgressMode, Lifecycle, Network, OnDeadline, Recipe, Requests, SandboxTemplateSpec, Tier, Volume,
};

/// What `over` says where it says something, otherwise what `under` says. Maps are merged, `over` going before.
#[must_use]
pub fn overlaid(under: Recipe, over: Recipe) -> Recipe {
    let merged = |mut under: std::collections::BTreeMap<String, String>, over| {
        under.extend(over);
        under
    };
    Recipe {
        image: over.image.or(under.image),
        tier: over.tier.or(under.tier),
        cpu: over.cpu.or(under.cpu),
        memory: over.memory.or(under.memory),
        requests: over.requests.or(under.requests),
        disk: over.disk.or(under.disk),
        pids: over.pids.or(under.pids),
        env: merged(under.env, over.env),
        start_command: over.start_command.or(under.start_command),
        ready_command: over.ready_command.or(under.ready_command),
        user: over.user.or(under.user),
        workdir: over.workdir.or(under.workdir),
        ports: if over.ports.is_empty() { under.ports } else { over.ports },
        volumes: if over.volumes.is_empty() { under.volumes } else { over.volumes },
        public: over.public.or(under.public),
        network: over.network.or(under.network),
        sudo: over.sudo.or(under.sudo),
        lifecycle: lifecycle_overlaid(under.lifecycle, over.lifecycle),
        executor: over.executor.or(under.executor),
    }
}

fn lifecycle_overlaid(under: Option<Lifecycle>, over: Option<Lifecycle>) -> Option<Lifecycle> {
    let (Some(under), Some(over)) = (&under, &over) else { return over.or(under) };
    Some(Lifecycle {
        pause_after_seconds: over.pause_after_seconds.or(under.pause_after_seconds),
        stop_after_seconds: over.stop_after_seconds.or(under.stop_after_seconds),
        terminate_after_seconds: over.terminate_after_seconds.or(under.terminate_after_seconds),
        ttl_seconds: over.ttl_seconds.or(under.ttl_seconds),
        allow_no_ttl: over.allow_no_ttl.or(under.allow_no_ttl),
        on_deadline: over.on_deadline.or(under.on_deadline),
        wake_on_request: over.wake_on_request.or(under.wake_on_request),
    })
}

/// A template, in core's words.
///
/// # Errors
/// When the network policy cannot be read; the field is named as in the object.
pub fn template_in(spec: &SandboxTemplateSpec) -> Result<TemplateSpec, Invalid> {
    let recipe = recipe_in(&spec.recipe)?;
    Ok(TemplateSpec { labels: spec.labels.clone(), runtime: spec.runtime.clone(), ..recipe })
}

/// A recipe, in core's words.
///
/// # Errors
/// As [`template_in`].
pub fn recipe_in(it: &Recipe) -> Result<TemplateSpec, Invalid> {
    Ok(TemplateSpec {
        image: it.image.clone().unwrap_or_default(),
        tier: it.tier.map_or(template::Tier::Basic, tier_in),
        cpu: it.cpu.clone(),
        memory: it.memory.clone(),
        disk: it.disk.clone(),
        requests: requests_in(it.requests.as_ref()),
        executor: it.executor.unwrap_or_default(),
        pids: it.pids.and_then(|pids| u64::try_from(pids).ok()),
        env: it.env.clone(),
        start_command: it.start_command.clone(),
        ready_command: it.ready_command.clone(),
        user: it.user.clone(),
        workdir: it.workdir.clone(),
        ports: it.ports.clone(),
        volumes: it.volumes.iter().map(|(name, it)| (name.clone(), volume_in(it))).collect(),
        public: it.public.unwrap_or_default(),
        network: network_in(it.network.as_ref())?,
        sudo: it.sudo,
        lifecycle: lifecycle_in(it.lifecycle.as_ref()),
        ..TemplateSpec::default()
    })
}

/// What is to be set aside, in core's words.
#[must_use]
pub fn requests_in(it: Option<&Requests>) -> RequestSpec {
    it.map(|it| RequestSpec { cpu: it.cpu.clone(), memory: it.memory.clone() }).unwrap_or_default()
}

fn requests_out(it: &RequestSpec) -> Requests {
    Requests { cpu: it.cpu.clone(), memory: it.memory.clone() }
}

fn tier_in(tier: Tier) -> template::Tier {
    match tier {
        Tier::Basic => template::Tier::Basic,
        Tier::Standard => template::Tier::Standard,
        Tier::Premium => template::Tier::Premium,
    }
}

fn volume_in(it: &Volume) -> VolumeSpec {
    VolumeSpec { path: it.path.clone(), size: it.size.clone() }
}

/// A policy, in core's words; everything public when there is none.
///
/// # Errors
/// Names the range that is none.
pub fn network_in(it: Option<&Network>) -> Result<NetworkPolicy, Invalid> {
    let Some(it) = it else { return Ok(NetworkPolicy::default()) };
    let mode = match it.mode {
        EgressMode::Internet => NetworkMode::Internet,
        EgressMode::Restricted => NetworkMode::Restricted,
        EgressMode::None => NetworkMode::None,
    };
    NetworkPolicy::parse(mode, &it.allow, &it.deny)
}

/// A policy, in the objects' words.
#[must_use]
pub fn network_out(it: &NetworkPolicy) -> Network {
    let mode = match it.mode {
        NetworkMode::Internet => EgressMode::Internet,
        NetworkMode::Restricted => EgressMode::Restricted,
        NetworkMode::None => EgressMode::None,
    };
    let texts = |ranges: &[atoll_core::network::Cidr]| ranges.iter().map(ToString::to_string).collect();
    Network { mode, allow: texts(&it.allow), deny: texts(&it.deny) }
}

/// 0 is never, absent is the default.
fn seconds_in(given: Option<i64>, default: Option<u64>) -> Option<u64> {
    match given {
        None => default,
        Some(seconds) => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0),
    }
}

fn lifecycle_in(it: Option<&Lifecycle>) -> LifecyclePolicy {
    let (it, default) = (it.cloned().unwrap_or_default(), LifecyclePolicy::default());
    LifecyclePolicy {
        pause_after: seconds_in(it.pause_after_seconds, default.pause_after),
        stop_after: seconds_in(it.stop_after_seconds, default.stop_after),
        terminate_after: seconds_in(it.terminate_after_seconds, default.terminate_after),
        ttl: seconds_in(it.ttl_seconds, default.ttl),
        allow_no_ttl: it.allow_no_ttl.unwrap_or(default.allow_no_ttl),
        on_deadline: match it.on_deadline {
            Some(OnDeadline::Pause) => template::OnDeadline::Pause,
            Some(OnDeadline::Terminate) | None => template::OnDeadline::Terminate,
        },
        wake_on_request: it.wake_on_request.unwrap_or(default.wake_on_request),
    }
}

/// A lifecycle, in the objects' words.
#[must_use]
pub fn lifecycle_out(it: &LifecyclePolicy) -> Lifecycle {
    let seconds = |given: Option<u64>| Some(given.map_or(0, |it| i64::try_from(it).unwrap_or(i64::MAX)));
    Lifecycle {
        pause_after_seconds: seconds(it.pause_after),
        stop_after_seconds: seconds(it.stop_after),
        terminate_after_seconds: seconds(it.terminate_after),
        ttl_seconds: seconds(it.ttl),
        allow_no_ttl: Some(it.allow_no_ttl),
        on_deadline: Some(match it.on_deadline {
            template::OnDeadline::Terminate => OnDeadline::Terminate,
            template::OnDeadline::Pause => OnDeadline::Pause,
        }),
        wake_on_request: Some(it.wake_on_request),
    }
}

/// A template, in the objects' words; what is the default is left out where that says the same.
#[must_use]
pub fn template_out(it: &TemplateSpec) -> SandboxTemplateSpec {
    let recipe = Recipe {
        image: Some(it.image.clone()),
        tier: Some(match it.tier {
            template::Tier::Basic => Tier::Basic,
            template::Tier::Standard => Tier::Standard,
            template::Tier::Premium => Tier::Premium,
        }),
        cpu: it.cpu.clone(),
        memory: it.memory.clone(),
        disk: it.disk.clone(),
        requests: (!it.requests.is_none()).then(|| requests_out(&it.requests)),
        pids: it.pids.and_then(|pids| i64::try_from(pids).ok()),
        env: it.env.clone(),
        start_command: it.start_command.clone(),
        ready_command: it.ready_command.clone(),
        user: it.user.clone(),
        workdir: it.workdir.clone(),
        ports: it.ports.clone(),
        volumes: it.volumes.iter().map(|(name, it)| (name.clone(), volume_out(it))).collect(),
        public: Some(it.public),
        network: (it.network != NetworkPolicy::default()).then(|| network_out(&it.network)),
        sudo: it.sudo,
        lifecycle: (it.lifecycle != LifecyclePolicy::default()).then(|| lifecycle_out(&it.lifecycle)),
        executor: Some(it.executor),
    };
    SandboxTemplateSpec { recipe, labels: it.labels.clone(), runtime: it.runtime.clone(), pod: None }
}

fn volume_out(it: &VolumeSpec) -> Volume {
    Volume { path: it.path.clone(), size: it.size.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> TemplateSpec {
        let text = serde_json::json!({
            "image": "x", "tier": "premium", "cpu": "500m", "memory": "1Gi", "disk": "2Gi", "pids": 99,
            "env": {"A": "b"}, "start_command": ["run"], "ready_command": ["ready"],
            "user": "u", "workdir": "/w", "ports": {"web": 80},
            "volumes": {"home": {"path": "/home/u", "size": "3Gi"}}, "public": true, "sudo": false, "runtime": "gvisor",
            "network": {"mode": "restricted", "allow": ["198.51.100.0/24"], "deny": []}, "labels": {"l": "v"},
            "requests": {"cpu": "100m", "memory": "64Mi"}, "executor": true,
            "lifecycle": {"pause_after": null, "stop_after": 7, "terminate_after": 8, "ttl": 9, "allow_no_ttl": false,
                "on_deadline": "pause", "wake_on_request": false},
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn nothing_of_a_template_is_lost() {
        for spec in [full(), TemplateSpec { image: "y".into(), ..TemplateSpec::default() }] {
            assert_eq!(template_in(&template_out(&spec)).unwrap(), spec);
        }
    }

    #[test]
    fn what_is_said_later_goes_before_and_maps_are_merged() {
        let under = template_out(&full()).recipe;
        let over = Recipe {
            cpu: Some("1".into()),
            env: [("C".to_owned(), "d".to_owned())].into(),
            lifecycle: Some(Lifecycle { ttl_seconds: Some(0), ..Lifecycle::default() }),
            ..Recipe::default()
        };
        let both = overlaid(under.clone(), over);
        assert_eq!((both.cpu.as_deref(), both.env.len()), (Some("1"), 2));
        let lifecycle = both.lifecycle.unwrap();
        assert_eq!((lifecycle.ttl_seconds, lifecycle.stop_after_seconds), (Some(0), Some(7)));
        assert_eq!(overlaid(under.clone(), Recipe::default()), under);
        assert_eq!(overlaid(Recipe::default(), under.clone()), under);
    }

    #[test]
    fn a_range_that_is_none_is_named() {
        let network = Network { allow: vec!["nowhere".into()], ..Network::default() };
        assert!(network_in(Some(&network)).unwrap_err().problem.contains("nowhere"));
    }
}
