//! The StatefulSet of a persistent sandbox: one pod or none, replaced only when somebody deletes it. Pure.

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use std::collections::BTreeMap;

use super::metadata;
use crate::{names::ID, operator::validate::Validated};

/// A StatefulSet that makes `pod` when it `runs`.
pub fn stateful(it: &Validated, pod: Pod, runs: bool) -> StatefulSet {
    let selector = BTreeMap::from([(ID.to_owned(), it.id().to_owned())]);
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: pod.metadata.labels,
            annotations: pod.metadata.annotations,
            ..ObjectMeta::default()
        }),
        spec: pod.spec,
    };
    StatefulSet {
        metadata: metadata(it, it.id()),
        spec: Some(StatefulSetSpec {
            replicas: Some(runs.into()),
            selector: LabelSelector { match_labels: Some(selector), match_expressions: None },
            service_name: Some(it.id().to_owned()),
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                rolling_update: None,
            }),
            revision_history_limit: Some(1),
            template,
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}
