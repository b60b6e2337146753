//! What things are called in a cluster: labels, namespaces, claims. Pure.

use atoll_core::id::SandboxId;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::crd::Sandbox;

/// Label of everything that belongs to a sandbox: its identifier.
pub const ID: &str = "atoll.dev/id";
/// Label of a tenant's namespace and of what is in it: the tenant.
pub const TENANT: &str = "atoll.dev/tenant";
/// Label of a namespace whose tenant has no root users inside sandboxes and no say in it.
pub const STRICT: &str = "atoll.dev/strict";
/// Label of what belongs to a user: [`atoll_core::owner::label`].
pub const OWNER_LABEL: &str = "atoll.dev/owner";
/// Annotation of what belongs to a user: their name as it is.
pub const OWNER: &str = "atoll.dev/owner-name";
/// Label of a claim: the volume's name.
pub const VOLUME: &str = "atoll.dev/volume";
/// Annotation of a claim that no sandbox has run with yet: what it holds is not whole.
pub const NEW: &str = "atoll.dev/new";
/// Label of a pod and of the network policy that is meant for it: the class of what it may reach.
pub const EGRESS: &str = "atoll.dev/egress";
/// Well-known label: what made it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const ATOLL: &str = "atoll";
/// Well-known label: what it is.
pub const NAME: &str = "app.kubernetes.io/name";
/// Value of [`NAME`] on a sandbox's pod.
pub const SANDBOX: &str = "atoll-sandbox";
/// Annotation of a sandbox's pod: the name of its object.
pub const OBJECT: &str = "atoll.dev/sandbox";
/// Keeps a Sandbox until its pod is gone.
pub const FINALIZER: &str = "atoll.dev/sandbox";
/// Who writes pods, claims, policies and status.
pub const OPERATOR: &str = "atoll-operator";
/// Who writes sandboxes and templates for callers of the API.
pub const API: &str = "atoll-api";
/// The port that agents listen on; the one that clients of E2B expect (its envd).
pub const AGENT_PORT: u16 = 49983;

/// The sandbox's identifier: its name, where that is one already, otherwise what its uid makes of itself, which nobody
/// can choose.
#[must_use]
pub fn id_of(sandbox: &Sandbox) -> SandboxId {
    SandboxId::parse(&sandbox.name_any()).unwrap_or_else(|_| id_of_uid(&sandbox.uid().unwrap_or_default()))
}

fn id_of_uid(uid: &str) -> SandboxId {
    let mut entropy = [0; 19];
    entropy.copy_from_slice(&Sha256::digest(uid.as_bytes())[..19]);
    SandboxId::from_entropy(entropy)
}

/// The name of the claim that holds a user's volume, at most 63 characters.
#[must_use]
pub fn claim(volume: &str, owner_label: &str) -> String {
    format!("{volume}-{owner_label}")
}

/// How tenants and namespaces belong together: a tenant's namespace is its name behind a prefix, so that neither a label
/// nor a look-up decides whose a namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// What stands before a tenant's name.
    pub prefix: String,
    /// Where Atoll itself runs, and where shared templates are.
    pub platform: String,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self { prefix: "tenant-".into(), platform: "atoll-system".into() }
    }
}

impl Namespaces {
    /// The namespace of a tenant.
    #[must_use]
    pub fn of(&self, tenant: &str) -> String {
        format!("{}{tenant}", self.prefix)
    }

    /// The tenant of a namespace, when it is one's.
    #[must_use]
    pub fn tenant<'a>(&self, namespace: &'a str) -> Option<&'a str> {
        namespace.strip_prefix(&self.prefix).filter(|tenant| !tenant.is_empty())
    }
}

/// What is said of a claim that another sandbox has.
#[must_use]
pub fn held(claim: &str, holder: &str) -> String {
    format!("volume claim {claim}{HELD_BY}{holder}; delete that one first")
}

const HELD_BY: &str = " is used by sandbox ";

/// Which sandbox [`held`] speaks of.
#[must_use]
pub fn holder_in(message: &str) -> Option<SandboxId> {
    SandboxId::parse(message.split_once(HELD_BY)?.1.split(';').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::owner::LONGEST_LABEL;

    #[test]
    fn an_identifier_comes_from_the_name_or_from_the_uid() {
        let mut sandbox = Sandbox::new("i0123456789abcdefghi", Default::default());
        assert_eq!(id_of(&sandbox).as_str(), "i0123456789abcdefghi");
        sandbox.metadata.name = Some("demo".into());
        sandbox.metadata.uid = Some("5f3c".into());
        let first = id_of(&sandbox);
        sandbox.metadata.uid = Some("5f3d".into());
        assert_ne!(id_of(&sandbox), first);
    }

    #[test]
    fn whoever_holds_a_claim_is_named() {
        let message = held("home-alice", "i0123456789abcdefghi");
        assert_eq!(holder_in(&message).unwrap().as_str(), "i0123456789abcdefghi");
        assert_eq!(holder_in("volume claim a is used by sandbox nobody; why"), None);
        assert_eq!(holder_in("no space left"), None);
    }

    #[test]
    fn namespaces_and_tenants_belong_together() {
        let namespaces = Namespaces::default();
        assert_eq!(namespaces.of("acme"), "tenant-acme");
        assert_eq!(namespaces.tenant("tenant-acme"), Some("acme"));
        assert_eq!((namespaces.tenant("acme"), namespaces.tenant("tenant-")), (None, None));
    }

    #[test]
    fn the_longest_claim_is_a_name() {
        assert!(claim(&"v".repeat(24), &"o".repeat(LONGEST_LABEL)).len() <= 63);
    }
}
