//! Routes of one sandbox alone: a Service with its ports, and an IngressRoute for each port's host names. The latter are in the
//! platform's namespace, where the gateway is, so they have no owner reference; the operator removes them. Pure.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{labels, metadata};
use crate::{
    names::ID,
    operator::{
        settings::{Entrance, Routing, Settings, Tls},
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
    let route = |port: (&String, &u16)| route(it, settings, port, &host(&label, port.0, domain), domain);
    (Some(service(it)), spec.ports.iter().map(route).collect())
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

fn route(
    it: &Validated,
    settings: &Settings,
    port: (&String, &u16),
    named: &str,
    domain: &str,
) -> DynamicObject {
    let (name, number) = port;
    // Links lead to a port of one sandbox, whoever else has its user's names.
    let hosts = [named, &format!("{number}-{}.{domain}", it.id())];
    let name = format!("{}-{name}", it.id());
    let spec = route_spec(&hosts, &settings.gateway_service, &settings.entrance);
    let mut made = DynamicObject::new(&name, &resource()).data(json!({ "spec": spec }));
    made.metadata = platform_metadata(it, settings, name);
    made.metadata.annotations = Some(BTreeMap::from([("atoll.dev/host".to_owned(), named.to_owned())]));
    made
}

fn route_spec(hosts: &[&str], (gateway, port): &(String, u16), entrance: &Entrance) -> Value {
    let rules: Vec<String> = hosts.iter().map(|host| format!("Host(`{host}`)")).collect();
    let services = json!([{ "name": gateway, "port": port }]);
    let mut spec =
        json!({ "routes": [{ "kind": "Rule", "match": rules.join(" || "), "services": services }] });
    if !entrance.points.is_empty() {
        spec["entryPoints"] = json!(entrance.points);
    }
    match &entrance.tls {
        Tls::Off => {}
        Tls::Default => spec["tls"] = json!({}),
        Tls::Secret(secret) => spec["tls"] = json!({ "secretName": secret }),
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_begin_where_the_wildcard_would() {
        let gateway = ("atoll-gateway".to_owned(), 80);
        let of = |points: &[&str], tls| {
            let points = points.iter().map(ToString::to_string).collect();
            route_spec(&["a-web.x", "80-i0.x"], &gateway, &Entrance { points, tls })
        };
        let plain = of(&[], Tls::Off);
        assert_eq!(plain["routes"][0]["match"], "Host(`a-web.x`) || Host(`80-i0.x`)");
        assert_eq!(plain["routes"][0]["services"], json!([{ "name": "atoll-gateway", "port": 80 }]));
        assert!(plain.get("tls").is_none() && plain.get("entryPoints").is_none(), "{plain}");
        let default = of(&["websecure"], Tls::Default);
        assert_eq!((&default["tls"], &default["entryPoints"]), (&json!({}), &json!(["websecure"])));
        let own = of(&["a", "b"], Tls::Secret("content-tls".into()));
        assert_eq!(own["tls"], json!({ "secretName": "content-tls" }));
    }
}
