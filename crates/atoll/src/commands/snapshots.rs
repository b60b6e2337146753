//! `snapshot` and `fork`: files of sandboxes kept, and sandboxes made from them.

use atoll_client::{
    ListSnapshots,
    api::{Fork, ForkSandbox, Sandbox, Snapshot},
};
use futures::TryStreamExt;

use super::{Context, finish, remove_each, resolve};
use crate::{
    cli::{MakeForks, Snapshots},
    failure::Failure,
    values::{bytes, moment},
};

/// `atoll snapshot`
pub async fn snapshots(context: &Context, command: Snapshots) -> Result<(), Failure> {
    match command {
        Snapshots::Take { sandbox, name } => {
            let sandbox = resolve::sandbox(&context.client, &sandbox).await?;
            let taken = sandbox.snapshot(name.as_deref()).await?;
            context.format.print_done(&taken, &taken.id)
        }
        Snapshots::Ls { sandbox, name } => {
            let query = ListSnapshots { sandbox, name, page_size: Some(1000) };
            let items: Vec<Snapshot> = context.client.snapshots(query).try_collect().await?;
            let header = ["ID", "NAMES", "SANDBOX", "IMAGE", "SIZE", "TAKEN"];
            context.format.print_all(&items, &header, row, |snapshot| &snapshot.id)
        }
        Snapshots::Rm { ids } => {
            remove_each(context, "id", &ids, async |id| context.client.remove_snapshot(id).await).await
        }
    }
}

fn row(snapshot: &Snapshot) -> Vec<String> {
    vec![
        snapshot.id.clone(),
        snapshot.names.join(","),
        snapshot.sandbox.clone(),
        snapshot.image.clone(),
        snapshot.size.map(bytes).unwrap_or_default(),
        moment(snapshot.created_at),
    ]
}

/// `atoll fork`
pub async fn fork(context: &Context, args: MakeForks) -> Result<(), Failure> {
    let sandbox = resolve::sandbox(&context.client, &args.sandbox).await?;
    let forks = sandbox.fork(&ForkSandbox { count: args.count, ttl: args.ttl }).await?;
    let outcomes = forks.into_iter().map(|fork| match fork {
        Fork::Sandbox(sandbox) => Ok(*sandbox),
        Fork::Error(error) => Err(Failure::Wrong(format!("{} ({})", error.error, error.code))),
    });
    finish(context.format, outcomes.collect(), |sandbox: &Sandbox| &sandbox.id)
}
