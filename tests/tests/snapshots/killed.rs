//! A server that dies in the middle of a snapshot or a fork.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{Phase, Sandbox};
use atoll_tests::{Server, server::wait_until};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

use crate::{all, of, on_disk, remove, shell};

/// At many delays into snapshots and forks, so that each step is hit. What is whole is kept; what is not leaves nothing.
pub async fn killed(server: &mut Server) -> Result<()> {
    let source = server.create().await?;
    shell(server, &source.id, "dd if=/dev/urandom of=/srv/file bs=1M count=8; md5sum </srv/file >/srv/sum")
        .await?;
    for step in 0..16_u64 {
        let path = if step % 2 == 0 { "snapshots" } else { "fork" };
        let (http, at) = (server.http()?, format!("/api/v1/sandboxes/{}/{path}", source.id));
        let asked = tokio::spawn(async move { http.post(&at, json!({})).await });
        tokio::time::sleep(Duration::from_micros(step * step * 250)).await;
        server.kill()?;
        let told = asked.await?.is_ok_and(|answer| answer.status == 201);
        server.launch().await?;
        settled(server, &source).await.with_context(|| format!("killed in step {step} of {path}"))?;
        let kept = all(server).await?;
        ensure!(path == "fork" || !told || kept.len() == 1, "{} snapshots", kept.len());
        for it in &kept {
            let copy = of(server, it).await?;
            shell(server, &copy.id, "md5sum </srv/file | diff - /srv/sum").await?;
            server.delete(&copy.id).await?;
            remove(server, it).await?;
        }
        for it in server.list().await?.iter().filter(|it| it.id != source.id) {
            server.delete(&it.id).await?;
        }
    }
    server.clear().await
}

/// The source runs, forks run or are not there, and nothing is on the disk that nobody knows of.
async fn settled(server: &Server, source: &Sandbox) -> Result<()> {
    wait_until("nothing is half made", async || {
        let sandboxes = server.list().await?;
        let known: BTreeSet<String> = all(server).await?.into_iter().map(|it| it.id).collect();
        ensure!(on_disk(server, "disk/snapshots") == known, "files of others than {known:?}");
        let records = known.iter().map(|id| format!("{id}.json")).collect();
        ensure!(on_disk(server, "snapshots") == records, "records of others than {known:?}");
        let ids: BTreeSet<String> = sandboxes.iter().map(|it| it.id.clone()).collect();
        ensure!(on_disk(server, "disk/sandboxes") == ids, "files of others than {ids:?}");
        Ok(sandboxes.iter().all(|it| it.phase == Phase::Running))
    })
    .await?;
    ensure!(server.output(&source.id, &["echo", "answers"]).await? == "answers", "the source is frozen");
    for it in server.list().await? {
        shell(server, &it.id, "md5sum </srv/file | diff - /srv/sum").await?;
    }
    Ok(())
}
