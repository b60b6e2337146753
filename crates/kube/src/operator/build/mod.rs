//! The third step: everything that should exist for a sandbox. Pure: objects in, objects out.

mod claims;
mod pod;
mod routes;
mod stateful;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::DynamicObject;
use std::{collections::BTreeMap, net::IpAddr};

use super::{egress, settings::Settings, validate::Validated};
use crate::{
    crd::DesiredState,
    names::{ATOLL, EGRESS, ID, MANAGED_BY, NAME, OBJECT, OWNER_LABEL, SANDBOX, TENANT},
};

pub use pod::{FILL, cpu_request};
pub use routes::{host, resource as ingress_route};

/// What is the same for all sandboxes and not the administrator's word.
#[derive(Clone, Debug)]
pub struct Platform {
    /// With which pods check requests to their agents, as hex.
    pub public_key: String,
    /// Name servers of sandboxes.
    pub resolvers: Vec<IpAddr>,
}

/// Everything that should exist. What is `None` should not.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Claims of volumes; never deleted with the sandbox.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The pod of an ephemeral sandbox.
    pub pod: Option<Pod>,
    /// The StatefulSet of a persistent one, with 0 or 1 replicas.
    pub stateful: Option<StatefulSet>,
    /// What leads its host names to the gateway, where each sandbox has routes of its own.
    pub service: Option<Service>,
    /// As `service`: in the platform's namespace.
    pub routes: Vec<DynamicObject>,
}

/// Builds it.
#[must_use]
pub fn build(it: &Validated, settings: &Settings, platform: &Platform) -> Desired {
    let runs = it.want != DesiredState::Stopped;
    let pod = pod::pod(it, settings, platform);
    let (pod, stateful) = match it.is_persistent() {
        true => (None, Some(stateful::stateful(it, pod, runs))),
        false => (runs.then_some(pod), None),
    };
    let (service, routes) = routes::routes(it, settings);
    Desired { claims: claims::claims(it, settings), pod, stateful, service, routes }
}

/// Labels of everything that belongs to a sandbox.
fn labels(it: &Validated) -> BTreeMap<String, String> {
    let spec = &it.resolved.spec;
    let mut labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), ATOLL.to_owned()),
        (NAME.to_owned(), SANDBOX.to_owned()),
        (ID.to_owned(), spec.id.to_string()),
        (TENANT.to_owned(), spec.tenant.clone()),
        (EGRESS.to_owned(), egress::class(&spec.network)),
    ]);
    if let Some(owner) = &spec.owner {
        labels.insert(OWNER_LABEL.to_owned(), atoll_core::owner::label(&spec.tenant, owner));
    }
    labels
}

/// Of an object that belongs to the sandbox and goes with it.
fn metadata(it: &Validated, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(it.namespace.clone()),
        labels: Some(labels(it)),
        annotations: Some(BTreeMap::from([(OBJECT.to_owned(), it.name.clone())])),
        owner_references: Some(vec![it.owner_reference.clone()]),
        ..ObjectMeta::default()
    }
}
