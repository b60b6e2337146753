//! `snapshot` and `fork`: files of sandboxes kept, and sandboxes made from them.

use atoll_client::{
    ListSnapshots,
    api::{Fork, ForkSandbox, Sandbox, Snapshot},
};
use futures::TryStreamExt;
use serde::Serialize;

use super::{Context, resolve, tally};
use crate::{
    cli::{MakeForks, Snapshots},
    failure::Failure,
    output::Format,
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
        Snapshots::Rm { ids } => rm(context, ids).await,
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

/// A snapshot that was removed.
#[derive(Serialize)]
struct Removed<'a> {
    id: &'a str,
    removed: bool,
}

async fn rm(context: &Context, ids: Vec<String>) -> Result<(), Failure> {
    let (mut removed, mut outcomes) = (Vec::new(), Vec::new());
    for id in &ids {
        let outcome = context.client.remove_snapshot(id).await;
        outcomes.push(outcome.map(|()| removed.push(Removed { id, removed: true })).map_err(Into::into));
    }
    let format = if context.format == Format::Table { Format::Name } else { context.format };
    format.print_all(&removed, &[], |_| Vec::new(), |removed| removed.id)?;
    tally(outcomes)
}

/// `atoll fork`
pub async fn fork(context: &Context, args: MakeForks) -> Result<(), Failure> {
    let sandbox = resolve::sandbox(&context.client, &args.sandbox).await?;
    let forks = sandbox.fork(&ForkSandbox { count: args.count, ttl: args.ttl }).await?;
    let (mut made, mut outcomes): (Vec<Sandbox>, _) = (Vec::new(), Vec::new());
    for fork in forks {
        outcomes.push(match fork {
            Fork::Sandbox(sandbox) => {
                made.push(*sandbox);
                Ok(())
            }
            Fork::Error(error) => Err(Failure::Wrong(format!("{} ({})", error.error, error.code))),
        });
    }
    let format = if context.format == Format::Table { Format::Name } else { context.format };
    format.print_all(&made, &[], |_| Vec::new(), |sandbox| &sandbox.id)?;
    tally(outcomes)
}
