//! The objects that Atoll adds to a cluster, as Rust types; the manifests are generated from these. They must not know
//! what becomes of them.

mod recipe;
mod sandbox;
mod template;

pub use recipe::{EgressMode, Lifecycle, Network, OnDeadline, Recipe, Requests, Tier, Volume};
pub use sandbox::{DesiredState, Phase, Reason, Sandbox, SandboxSpec, SandboxStatus, Transition, condition};
pub use template::{
    Gpu, ImageMeta, PodSettings, SandboxTemplate, SandboxTemplateSpec, SandboxTemplateStatus, Toleration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// All definitions, in the order in which they are to be applied.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        described(SandboxTemplate::crd(), "A named recipe from which sandboxes are made."),
        described(Sandbox::crd(), "An isolated Linux environment of a user or a program."),
    ]
}

/// What `kubectl explain` says first.
fn described(mut definition: CustomResourceDefinition, text: &str) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|it| it.open_api_v3_schema.as_mut()) {
            schema.description = Some(text.to_owned());
        }
    }
    definition
}

/// All definitions as YAML, one document each, as `kubectl apply -f -` takes them.
///
/// # Errors
/// When one cannot be written as YAML.
pub fn manifests() -> Result<String, serde_saphyr::ser::Error> {
    let texts: Result<Vec<String>, _> = definitions().iter().map(serde_saphyr::to_string).collect();
    Ok(texts?.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt;

    #[test]
    fn what_is_installed_is_what_the_types_say() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
        for definition in definitions() {
            let path = format!("{folder}/{}.yaml", definition.spec.names.plural);
            let text = std::fs::read_to_string(&path).unwrap();
            let kept: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            let now = serde_json::to_value(&definition).unwrap();
            assert!(
                kept == now,
                "{}: run deploy/generate, or write what `atoll crd` prints to {path}",
                definition.name_any()
            );
        }
    }

    #[test]
    fn every_document_is_a_definition() {
        let text = manifests().unwrap();
        let names: Vec<String> = text
            .split("---\n")
            .map(|one| serde_saphyr::from_str::<CustomResourceDefinition>(one).unwrap().name_any())
            .collect();
        assert_eq!(names, ["sandboxtemplates.atoll.dev", "sandboxes.atoll.dev"]);
    }
}
