//! A sandbox as the cluster showed it last: what the driver keeps of the object. Pure.

use atoll_core::{id::SandboxId, phase::Phase, sandbox};
use jiff::Timestamp;
use kube::ResourceExt;
use std::net::IpAddr;

use crate::{
    convert::to_core,
    crd::{self, DesiredState},
    names::Namespaces,
};

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

/// What the driver keeps of a Sandbox object.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where it is.
    pub place: Place,
    /// Tells it apart from an earlier object of that name.
    pub uid: String,
    /// `metadata.resourceVersion`, which grows with every write of any Sandbox.
    pub version: u64,
    /// `metadata.generation`, which grows with every change of what is wanted.
    pub generation: i64,
    /// The generation that the operator has looked at.
    pub observed: i64,
    /// How it should be.
    pub wanted: DesiredState,
    /// Where its agent is.
    pub address: Option<IpAddr>,
    /// The node it runs on.
    pub node: Option<String>,
    /// When the object was made.
    pub born: Timestamp,
    /// The sandbox, in core's words.
    pub sandbox: sandbox::Sandbox,
}

impl Seen {
    /// What is kept of an object; nothing of one that is in no tenant's namespace.
    #[must_use]
    pub fn of(object: &crd::Sandbox, namespaces: &Namespaces) -> Option<Self> {
        let namespace = object.namespace()?;
        let tenant = namespaces.tenant(&namespace)?;
        let status = object.status.as_ref();
        Some(Self {
            sandbox: sandbox(object, tenant),
            place: Place { name: object.name_any(), namespace },
            uid: object.uid().unwrap_or_default(),
            version: version(object),
            generation: object.metadata.generation.unwrap_or_default(),
            observed: status.and_then(|it| it.observed_generation).unwrap_or_default(),
            wanted: object.spec.state.unwrap_or_default(),
            address: status.and_then(|it| it.address.as_ref()?.parse().ok()),
            node: status.and_then(|it| it.node.clone()),
            born: object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |at| at.0),
        })
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        self.sandbox.id()
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.sandbox.phase
    }
}

/// A version as a number, as which Kubernetes lets clients compare them; 0 where there is none.
#[must_use]
pub fn version(object: &crd::Sandbox) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The operator has not said yet that it goes when its deletion is only recorded.
fn sandbox(object: &crd::Sandbox, tenant: &str) -> sandbox::Sandbox {
    let mut seen = to_core(object, tenant);
    let told = object.status.as_ref().and_then(|it| it.phase) == Some(crd::Phase::Terminating);
    if let (Some(at), false) = (&object.metadata.deletion_timestamp, told) {
        seen.since = at.0;
        seen.reason = sandbox::Reason::new("requested", "deletion was requested");
    }
    seen
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    /// An object as the cluster would show it.
    pub fn object(tenant: &str, n: u8, version: u64, phase: Option<crd::Phase>) -> crd::Sandbox {
        let mut core = atoll_core::testing::sandbox(n);
        core.spec.tenant = tenant.into();
        let mut it = crate::convert::from_core(&core, &Namespaces::default().of(tenant));
        it.metadata.uid = Some(format!("uid-{tenant}-{n}"));
        it.metadata.resource_version = Some(version.to_string());
        it.metadata.generation = Some(1);
        it.metadata.creation_timestamp = Some(Time(Timestamp::from_second(i64::from(n)).unwrap()));
        it.status = phase.map(|phase| crd::SandboxStatus { phase: Some(phase), ..Default::default() });
        it
    }

    /// What is kept of it.
    pub fn seen(tenant: &str, n: u8, version: u64, phase: Option<crd::Phase>) -> Seen {
        Seen::of(&object(tenant, n, version, phase), &Namespaces::default()).unwrap()
    }

    #[test]
    fn only_what_is_in_a_tenants_namespace_is_seen() {
        let mut it = object("acme", 1, 7, None);
        let made = Seen::of(&it, &Namespaces::default()).unwrap();
        assert_eq!((made.version, made.sandbox.spec.tenant.as_str()), (7, "acme"));
        it.metadata.namespace = Some("kube-system".into());
        assert!(Seen::of(&it, &Namespaces::default()).is_none());
    }

    #[test]
    fn what_goes_says_so_before_the_operator_does() {
        let mut it = object("acme", 1, 7, Some(crd::Phase::Running));
        it.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(99).unwrap()));
        let made = Seen::of(&it, &Namespaces::default()).unwrap();
        assert_eq!((made.phase(), made.sandbox.since.as_second()), (Phase::Terminating, 99));
        assert_eq!(made.sandbox.reason.code, "requested");
    }
}
