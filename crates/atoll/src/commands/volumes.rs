//! `volumes`: listed, removed.

use atoll_client::api::VolumeInfo;
use serde::Serialize;

use super::{Context, finish};
use crate::{cli::Volumes, failure::Failure, values::moment};

/// `atoll volumes`
pub async fn volumes(context: &Context, command: Volumes) -> Result<(), Failure> {
    match command {
        Volumes::Ls { owner } => {
            let items = context.client.volumes(owner.as_deref()).await?;
            let header = ["OWNER", "NAME", "SIZE", "USED BY", "MADE"];
            context.format.print_all(&items, &header, row, |volume| &volume.name)
        }
        Volumes::Rm { owner, names } => rm(context, &owner, names).await,
    }
}

fn row(volume: &VolumeInfo) -> Vec<String> {
    let used_by = volume.used_by.clone().unwrap_or_default();
    vec![volume.owner.clone(), volume.name.clone(), volume.size.clone(), used_by, moment(volume.created_at)]
}

/// A volume that was removed.
#[derive(Serialize)]
struct Removed<'a> {
    owner: &'a str,
    name: &'a str,
    removed: bool,
}

async fn rm(context: &Context, owner: &str, names: Vec<String>) -> Result<(), Failure> {
    let mut outcomes = Vec::with_capacity(names.len());
    for name in &names {
        let outcome = context.client.remove_volume(owner, name).await;
        outcomes.push(outcome.map(|()| Removed { owner, name, removed: true }).map_err(Failure::from));
    }
    finish(context.format, outcomes, |removed| removed.name)
}
