//! What whoever starts the operator decides.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use atoll_core::{network::Cidr, request::Capacity, template::TemplateSpec};

use crate::names::Namespaces;

/// How the agent gets into a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Injection {
    /// As a read-only volume of the agent's image: nothing is copied. Needs a runtime that can (containerd 2.1).
    #[default]
    ImageVolume,
    /// An init container copies it.
    InitContainer,
}

/// Which host names lead to sandboxes, and through what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// One wildcard to the gateway, which the platform's administrator makes once.
    #[default]
    Wildcard,
    /// A Service and an IngressRoute for each sandbox.
    PerSandbox,
}

/// Where routes of single sandboxes begin, as the wildcard's does that stands in their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrance {
    /// Names of Traefik's entry points; its default ones when there is none.
    pub points: Vec<String>,
    /// Whether it is TLS that comes in.
    pub tls: Tls,
}

/// What ends TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Nothing: requests come in the clear.
    #[default]
    Off,
    /// Traefik, with its default certificate.
    Default,
    /// Traefik, with the certificate in this Secret of the platform's namespace.
    Secret(String),
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which namespaces are whose.
    pub namespaces: Namespaces,
    /// What one sandbox may have.
    pub capacity: Capacity,
    /// The image that has the agent at `/agent/atoll-agent`.
    pub agent_image: String,
    /// How it gets into pods.
    pub injection: Injection,
    /// Name servers of sandboxes; the node's when there are none.
    pub resolvers: Vec<IpAddr>,
    /// A Service in the platform's namespace that is one.
    pub resolver_service: Option<String>,
    /// Images must begin with one of these, in which `{tenant}` is the tenant; all images when there is none.
    pub allowed_images: Vec<String>,
    /// The registry of images whose names have none, with a path where it has one: `registry.example/mirror`. The nodes'
    /// own choice, Docker Hub, when there is none.
    pub default_registry: Option<String>,
    /// Registries that may be spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// The domain below which sandboxes have host names.
    pub domain: Option<String>,
    /// What leads there.
    pub routing: Routing,
    /// Where routes of single sandboxes begin.
    pub entrance: Entrance,
    /// Name of the gateway's Service in the platform's namespace, and its port.
    pub gateway_service: (String, u16),
    /// The built-in template `executor`.
    pub executor: TemplateSpec,
    /// StorageClass of volumes whose template names none.
    pub storage_class: Option<String>,
    /// Access mode of volumes, e.g. `ReadWriteOnce` or `ReadWriteOncePod`.
    pub access_mode: String,
    /// Whether policies may open private address ranges by name.
    pub private_egress: bool,
    /// Ranges that nothing opens, beside those that are never reachable and the cluster's own addresses.
    pub protected: Vec<Cidr>,
    /// Ranges from which agents may be reached beside the platform's namespace: where parts of Atoll run outside the
    /// cluster.
    pub platform_ranges: Vec<Cidr>,
    /// Where `/metrics`, `/healthz` and `/readyz` are answered.
    pub listen: SocketAddr,
    /// Who this is among the operator's replicas: the pod's name.
    pub identity: String,
}

impl Settings {
    /// The image as nodes are asked for it: with a registry.
    #[must_use]
    pub fn image<'a>(&self, reference: &'a str) -> Cow<'a, str> {
        match &self.default_registry {
            Some(registry) if !names_registry(reference) => Cow::Owned(format!("{registry}/{reference}")),
            _ => Cow::Borrowed(reference),
        }
    }
}

/// As Docker reads references: what stands before the first slash is a registry when it could not be a part of a name.
fn names_registry(reference: &str) -> bool {
    let first = reference.split_once('/').map_or("", |(first, _)| first);
    first == "localhost" || first.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_told_from_names() {
        for name in ["localhost/a", "r:5000/a/b:1", "r.example/a@sha256:0"] {
            assert!(names_registry(name), "{name}");
        }
        for name in ["base", "base:1.2", "team/app:1.2", "team/app@sha256:0"] {
            assert!(!names_registry(name), "{name}");
        }
    }
}
