//! The server may die at any moment: sandboxes run on, the next server adopts them, finishes or undoes what was half done,
//! and leaks nothing. Death comes at many delays into a creation and a deletion, so that each step is hit.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::Phase;
use atoll_tests::{Options, Run, Server, host, server::wait_until, story};
use std::{collections::BTreeSet, process::ExitCode, time::Duration};

fn main() -> ExitCode {
    story("survive", async |run: &mut Run| {
        let mut server = Server::start(Options::default()).await?;
        let patience = Duration::from_secs(600);
        run.case("a_killed_server_is_succeeded", succeeded(&mut server)).await;
        run.case("a_server_that_ends_in_peace_is_succeeded", succeeded_in_peace(&mut server)).await;
        run.case("paused_and_stopped_stay_so", rest_is_kept(&mut server)).await;
        run.patient_case("killed_in_the_middle_of_create", patience, killed_in_create(&mut server)).await;
        run.patient_case("killed_in_the_middle_of_delete", patience, killed_in_delete(&mut server)).await;
        run.case("sandboxes_that_end_while_no_server_runs", ended_unseen(&mut server)).await;
        run.case("one_server_per_directory", one_per_directory(&server)).await;
        run.case("servers_side_by_side", side_by_side(&server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        without_btrfs(run).await
    })
}

/// What is different where each sandbox has a filesystem of its own, which is mounted while it runs.
async fn without_btrfs(run: &mut Run) -> Result<()> {
    let mut server = Server::start(Options::without_btrfs()).await?;
    let patience = Duration::from_secs(600);
    run.case("without_btrfs_a_killed_server_is_succeeded", succeeded(&mut server)).await;
    run.case("without_btrfs_paused_and_stopped_stay_so", rest_is_kept(&mut server)).await;
    run.patient_case("without_btrfs_killed_in_create", patience, killed_in_create(&mut server)).await;
    run.patient_case("without_btrfs_killed_in_delete", patience, killed_in_delete(&mut server)).await;
    run.case("without_btrfs_sandboxes_that_end_unseen", ended_unseen(&mut server)).await;
    run.case("without_btrfs_nothing_is_left_behind", server.close()).await;
    Ok(())
}

async fn succeeded(server: &mut Server) -> Result<()> {
    let sandbox = server.create().await?;
    ensure!(
        groups_of_sandboxes(server).contains(&server.group(&sandbox.id)?),
        "its control group is not found"
    );
    server
        .cli()?
        .output(&["exec", "-d", &sandbox.id, "--", "sh", "-c", "sleep 3; echo went on >/tmp/done; sleep 600"])
        .await?;
    server.kill()?;
    server.launch().await?;
    ensure!(server.client()?.sandbox(&sandbox.id).get().await?.phase == Phase::Running);
    ensure!(server.output(&sandbox.id, &["echo", "answers"]).await? == "answers");
    wait_until("its command went on", async || {
        Ok(server.exec(&sandbox.id, &["cat", "/tmp/done"]).await?.stdout == "went on\n")
    })
    .await?;
    server.delete(&sandbox.id).await
}

async fn succeeded_in_peace(server: &mut Server) -> Result<()> {
    let sandbox = server.create().await?;
    server.stop().await?;
    let lives = server.processes(&sandbox.id)?;
    server.launch().await?;
    ensure!(!lives.is_empty(), "the sandbox ended with its server");
    ensure!(server.output(&sandbox.id, &["echo", "answers"]).await? == "answers");
    server.delete(&sandbox.id).await
}

async fn rest_is_kept(server: &mut Server) -> Result<()> {
    let (paused, stopped) = (server.create().await?, server.create().await?);
    server.output(&stopped.id, &["sh", "-c", "echo kept >/home/user/note"]).await?;
    server.client()?.sandbox(&paused.id).pause().await?;
    server.client()?.sandbox(&stopped.id).stop().await?;
    server.kill()?;
    server.launch().await?;
    let client = server.client()?;
    ensure!(client.sandbox(&paused.id).get().await?.phase == Phase::Paused);
    ensure!(client.sandbox(&stopped.id).get().await?.phase == Phase::Stopped);
    client.sandbox(&paused.id).resume().await?;
    client.sandbox(&stopped.id).start().await?;
    ensure!(server.output(&paused.id, &["echo", "answers"]).await? == "answers");
    ensure!(server.output(&stopped.id, &["cat", "/home/user/note"]).await? == "kept");
    server.delete(&paused.id).await?;
    server.delete(&stopped.id).await
}

/// What the host has of sandboxes, by the last part of their names: nothing may be there that the server does not know.
fn groups_of_sandboxes(server: &Server) -> BTreeSet<String> {
    let tag = host::marks(server.data()).into_iter().next().unwrap_or_default();
    host::groups_below(&format!("atoll-{tag}"))
}

/// Whether nothing is in a control group but a launcher that waits for its order.
fn is_spare(group: &str) -> bool {
    let inside = host::processes().into_iter().filter(|(_, line)| line.contains(group));
    let waiting = inside.map(|(_, line)| line.contains("atoll-launch")).collect::<Vec<_>>();
    waiting == [true]
}

/// Every sandbox that the server has is whole or failed with a reason, and the host has none that the server has not.
async fn consistent(server: &Server) -> Result<()> {
    wait_until("nothing is half done", async || {
        let all = server.list().await?;
        let half = all.iter().find(|s| matches!(s.phase, Phase::Creating | Phase::Terminating));
        ensure!(half.is_none(), "half done: {half:?}");
        let known: BTreeSet<_> = all.iter().filter_map(|s| server.group(&s.id).ok()).collect();
        let unknown: Vec<_> = groups_of_sandboxes(server)
            .difference(&known)
            .filter(|group| !is_spare(group))
            .cloned()
            .collect();
        ensure!(unknown.is_empty(), "control groups without a sandbox: {unknown:?}");
        Ok(true)
    })
    .await?;
    for sandbox in server.list().await? {
        match sandbox.phase {
            Phase::Running => {
                ensure!(server.output(&sandbox.id, &["echo", "x"]).await? == "x", "{sandbox:?}")
            }
            _ => ensure!(!sandbox.reason.code.is_empty(), "no reason: {sandbox:?}"),
        }
    }
    server.clear().await?;
    let left = std::fs::read_dir(server.data().join("disk/sandboxes"))?.count();
    ensure!(left == 0, "files of {left} sandboxes are left");
    Ok(())
}

async fn killed_in_create(server: &mut Server) -> Result<()> {
    for delay in (0..60).step_by(2) {
        let http = server.http()?;
        let asks = (0..3).map(|_| {
            tokio::spawn({
                let (http, ask) = (http.clone(), server.ask());
                async move { http.post("/api/v1/sandboxes", ask).await }
            })
        });
        let asks: Vec<_> = asks.collect();
        tokio::time::sleep(Duration::from_millis(delay)).await;
        server.kill()?;
        futures::future::join_all(asks).await;
        server.launch().await?;
        consistent(server).await.with_context(|| format!("killed after {delay} ms"))?;
    }
    Ok(())
}

async fn killed_in_delete(server: &mut Server) -> Result<()> {
    for delay in (0..60).step_by(3) {
        let one = server.create().await?;
        let two = server.create().await?;
        server.client()?.sandbox(&two.id).pause().await?;
        let http = server.http()?;
        let asks = [one.id, two.id].map(|id| {
            tokio::spawn({
                let http = http.clone();
                async move { http.delete(&format!("/api/v1/sandboxes/{id}")).await }
            })
        });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        server.kill()?;
        futures::future::join_all(asks).await;
        server.launch().await?;
        consistent(server).await.with_context(|| format!("killed after {delay} ms"))?;
    }
    Ok(())
}

async fn ended_unseen(server: &mut Server) -> Result<()> {
    let sandbox = server.create().await?;
    server.kill()?;
    for pid in server.processes(&sandbox.id)? {
        // Those inside the sandbox end with its first process, perhaps before their turn.
        let _ = host::signal(pid, rustix::process::Signal::KILL);
    }
    server.launch().await?;
    let handle = server.client()?.sandbox(&sandbox.id);
    wait_until("it is seen as failed", async || Ok(handle.get().await?.phase == Phase::Failed)).await?;
    server.delete(&sandbox.id).await
}

async fn one_per_directory(server: &Server) -> Result<()> {
    let data = server.data().display().to_string();
    let done = server.cli()?.run(&["serve", "--data", &data, "--listen", "127.0.0.1:0"]).await?;
    ensure!(done.code != 0 && done.stderr.contains(&data), "{done:?}");
    Ok(())
}

async fn side_by_side(server: &Server) -> Result<()> {
    let other = Server::start(Options::default()).await?;
    let (here, there) = (server.create().await?, other.create().await?);
    ensure!(server.output(&here.id, &["echo", "here"]).await? == "here");
    ensure!(other.output(&there.id, &["echo", "there"]).await? == "there");
    ensure!(server.list().await?.iter().all(|s| s.id != there.id), "a server sees another's sandbox");
    other.close().await?;
    ensure!(
        server.output(&here.id, &["echo", "here"]).await? == "here",
        "the other server's end broke this one's"
    );
    server.delete(&here.id).await
}
