//! Many at once, beside as many bare pods.

use anyhow::Result;
use atoll_tests::server::wait_until_within;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DeleteParams, ListParams, PostParams};
use std::time::{Duration, Instant};

use super::{
    Bench, plain,
    stages::{self, Seen, Stage},
};
use crate::table::Table;

/// So many.
const CROWD: usize = 50;
/// A guard against hanging.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures both.
pub async fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let took = sandboxes(bench).await?;
    table.add(format!("{CROWD} sandboxes at once, until all are ready"), seconds(took), "", "");
    let took = bare(bench).await?;
    table.add(format!("{CROWD} bare pods at once, until all are ready"), seconds(took), "", "");
    Ok(())
}

async fn sandboxes(bench: &Bench) -> Result<Duration> {
    let begun = Instant::now();
    let all = stream::iter(0..CROWD).map(async |_| bench.client.sandboxes().create(&plain()).await);
    all.buffer_unordered(CROWD).try_collect::<Vec<_>>().await?;
    let took = begun.elapsed();
    bench.server.clear().await?;
    Ok(took)
}

async fn bare(bench: &Bench) -> Result<Duration> {
    let (seen, pods) = (Seen::default(), bench.pods());
    let _watch = stages::watch(bench, &seen).await?;
    let names: Vec<_> = (0..CROWD).map(|number| format!("bare-crowd-{number}")).collect();
    let begun = Instant::now();
    let all = stream::iter(&names).map(async |name| {
        pods.create(&PostParams::default(), &bench.bare(name)?).await.map_err(anyhow::Error::from)
    });
    all.buffer_unordered(CROWD).try_collect::<Vec<_>>().await?;
    let ready = async || Ok(names.iter().all(|name| seen.at(name, Stage::Ready).is_some()));
    wait_until_within(PATIENCE, "all bare pods are ready", ready).await?;
    let took = names
        .iter()
        .filter_map(|name| seen.at(name, Stage::Ready))
        .max()
        .unwrap_or(begun)
        .duration_since(begun);
    let bare = ListParams::default().labels("bench=bare");
    pods.delete_collection(&DeleteParams::default(), &bare).await?;
    let gone = async || Ok(pods.list(&bare).await?.items.is_empty());
    wait_until_within(PATIENCE, "all bare pods are gone", gone).await?;
    Ok(took)
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
