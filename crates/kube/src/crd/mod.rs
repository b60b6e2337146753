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
    vec![SandboxTemplate::crd(), Sandbox::crd()]
}
