//! Routes of one sandbox alone: a Service with its ports, and an IngressRoute for each host name. The latter are in the
//! platform's namespace, where the gateway is, so they have no owner reference; the operator removes them. Pure.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;
use std::collections::BTreeMap;

use super::{labels, metadata};
use crate::{
    names::ID,
    operator::{
        settings::{Routing, Settings},
        validate::Validated,
    },
};

/// Traefik's own kind.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("traefik.io", "v1alpha1", "IngressRoute"))
}

/// The host name of a sandbox's named port.
#[must_use]
pub fn host(owner_label: &str, port: &str, domain: &str) -> String {
    format!("{owner_label}-{port}.{domain}")
}

/// What leads there, where each sandbox has its own.
pub fn routes(it: &Validated, settings: &Settings) -> (Option<Service>, Vec<DynamicObject>) {
    let (Some(domain), Routing::PerSandbox) = (&settings.domain, settings.routing) else {
        return (None, Vec::new());
    };
    let spec = &it.resolved.spec;
    let Some(owner) = &spec.owner else { return (None, Vec::new()) };
    let label = atoll_core::owner::label(&spec.tenant, owner);
    let route = |port: &String| route(it, settings, port, &host(&label, port, domain));
    (Some(service(it)), spec.ports.keys().map(route).collect())
}

fn platform_metadata(it: &Validated, settings: &Settings, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(settings.namespaces.platform.clone()),
        labels: Some(labels(it)),
        ..ObjectMeta::default()
    }
}

/// Names the pod and its ports in the sandbox's namespace. Nothing reaches them by it past the network policies: the
/// routes lead to the gateway, which wakes, checks and counts.
fn service(it: &Validated) -> Service {
    let port = |(name, port): (&String, &u16)| ServicePort {
        name: Some(name.clone()),
        port: (*port).into(),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(it, it.id()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            selector: Some(BTreeMap::from([(ID.to_owned(), it.id().to_owned())])),
            ports: Some(it.resolved.spec.ports.iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn route(it: &Validated, settings: &Settings, port: &str, host: &str) -> DynamicObject {
    let (gateway, number) = &settings.gateway_service;
    let service = json!([{ "name": gateway, "port": number }]);
    let mut made = DynamicObject::new(&format!("{}-{port}", it.id()), &resource())
        .data(json!({ "spec": { "routes": [{ "kind": "Rule", "match": format!("Host(`{host}`)"), "services": service }] } }));
    made.metadata = platform_metadata(it, settings, format!("{}-{port}", it.id()));
    made.metadata.annotations = Some(BTreeMap::from([("atoll.dev/host".to_owned(), host.to_owned())]));
    made
}
