//! The claims of a sandbox's volumes. They belong to the user: no owner reference, so that they stay. Pure.

use atoll_core::quantity::Bytes;
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use std::collections::BTreeMap;

use super::labels;
use crate::{
    names::{EGRESS, NEW, OWNER, VOLUME},
    operator::{
        settings::Settings,
        validate::{Claim, Validated},
    },
};

/// The claims.
pub fn claims(it: &Validated, settings: &Settings) -> Vec<PersistentVolumeClaim> {
    let one = |volume: &atoll_core::volume::Volume| {
        let claim = it.claims.get(&volume.name)?;
        Some(PersistentVolumeClaim {
            metadata: claim_metadata(it, &volume.name, claim),
            spec: Some(spec(it, volume.size, claim, settings)),
            status: None,
        })
    };
    it.resolved.spec.volumes.iter().filter_map(one).collect()
}

fn claim_metadata(it: &Validated, volume: &str, claim: &Claim) -> ObjectMeta {
    let mut labels = labels(it);
    labels.remove(EGRESS);
    labels.insert(VOLUME.to_owned(), volume.to_owned());
    let owner = it.resolved.spec.owner.clone().unwrap_or_default();
    let mut annotations = BTreeMap::from([(OWNER.to_owned(), owner)]);
    if claim.new {
        annotations.insert(NEW.to_owned(), "true".to_owned());
    }
    ObjectMeta {
        name: Some(claim.name.clone()),
        namespace: Some(it.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

fn spec(it: &Validated, size: Bytes, claim: &Claim, settings: &Settings) -> PersistentVolumeClaimSpec {
    // A claim never shrinks: a smaller wish leaves it as it is.
    let there =
        claim.size.as_deref().filter(|text| Bytes::parse("size", text).is_ok_and(|there| there >= size));
    let storage = Quantity(there.map_or_else(|| size.to_string(), str::to_owned));
    let requests = BTreeMap::from([("storage".to_owned(), storage)]);
    PersistentVolumeClaimSpec {
        access_modes: Some(vec![settings.access_mode.clone()]),
        storage_class_name: it.resolved.pod.storage_class.clone().or_else(|| settings.storage_class.clone()),
        resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
        ..PersistentVolumeClaimSpec::default()
    }
}
