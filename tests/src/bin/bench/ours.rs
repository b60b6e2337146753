//! Our own figures through the HTTP API: creation, commands, deletion, rest, and a crowd of idle sandboxes.

use anyhow::{Context, Result, bail, ensure};
use atoll_client::Client;
use atoll_proto::api::{CreateSandbox, ExecRequest, Fork, ForkSandbox};
use atoll_tests::{
    Server, host,
    server::{IMAGE, wait_until},
    stats::Times,
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{Size, table::Table};

/// Sandboxes made at the same time in the second measurement of creation.
const PARALLEL: usize = 16;

fn echo() -> ExecRequest {
    ExecRequest { command: vec!["echo".into(), "x".into()], ..ExecRequest::default() }
}

fn plain() -> CreateSandbox {
    // Nothing that is measured may fall asleep meanwhile.
    CreateSandbox { image: Some(IMAGE.into()), pause_after: Some(0), ..CreateSandbox::default() }
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    Ok((work.await?, begun.elapsed()))
}

/// Makes a sandbox and runs a first command.
async fn create_and_echo(client: &Client) -> Result<String> {
    let sandbox = client.sandboxes().create(&plain()).await?;
    let done = client.sandbox(&sandbox.id).exec(&echo()).await?;
    ensure!(done.stdout == "x\n", "{done:?}");
    Ok(sandbox.id)
}

/// Everything about few sandboxes.
pub async fn measure(server: &Server, size: Size, table: &mut Table) -> Result<()> {
    // The first one pays for what is cached afterwards.
    let client = server.client()?;
    server.delete(&create_and_echo(&client).await?).await?;
    let target = "p50 15 ms, p99 40 ms";
    let (create, delete) = one_by_one(&client, size.samples).await?;
    table.add_times("create -> first output, 1 at a time", &create, target);
    let create = at_once(server, size.samples).await?;
    table.add_times(&format!("create -> first output, {PARALLEL} at once"), &create, "");
    table.add_times("delete until gone", &delete, "");
    life(server, size.samples, table).await
}

async fn one_by_one(client: &Client, samples: usize) -> Result<(Times, Times)> {
    let (mut create, mut delete) = (Times::default(), Times::default());
    for _ in 0..samples {
        let (id, took) = timed(create_and_echo(client)).await?;
        create.add(took);
        delete.add(timed(delete_until_gone(client, &id)).await?.1);
    }
    Ok((create, delete))
}

async fn delete_until_gone(client: &Client, id: &str) -> Result<()> {
    let sandbox = client.sandbox(id);
    sandbox.delete().await?;
    while !sandbox.get().await.is_err_and(|error| error.is_not_found()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn at_once(server: &Server, samples: usize) -> Result<Times> {
    let (client, times) = (&server.client()?, Mutex::new(Times::default()));
    let all = stream::iter(0..samples).map(async |_| {
        let (id, took) = timed(create_and_echo(client)).await?;
        if let Ok(mut times) = times.lock() {
            times.add(took);
        }
        Ok::<_, anyhow::Error>(id)
    });
    let ids: Vec<_> = all.buffer_unordered(PARALLEL).try_collect().await?;
    ensure!(ids.len() == samples);
    server.clear().await?;
    Ok(times.into_inner().unwrap_or_default())
}

/// Commands, pause and resume of one sandbox.
async fn life(server: &Server, samples: usize, table: &mut Table) -> Result<()> {
    let client = server.client()?;
    let id = create_and_echo(&client).await?;
    let sandbox = client.sandbox(&id);
    let (mut exec, mut pause, mut resume) = (Times::default(), Times::default(), Times::default());
    for _ in 0..samples * 4 {
        exec.add(timed(async { Ok(sandbox.exec(&echo()).await?) }).await?.1);
    }
    for _ in 0..samples {
        pause.add(timed(async { Ok(sandbox.pause().await?) }).await?.1);
        resume.add(timed(async { Ok(sandbox.resume().await?) }).await?.1);
    }
    table.add_times("exec round trip", &exec, "p50 3 ms");
    table.add_times("pause", &pause, "5 ms");
    table.add_times("resume", &resume, "5 ms");
    server.delete(&id).await?;
    copies(server, samples, table).await
}

/// Snapshots and forks of a paused sandbox that has written 16 MiB.
async fn copies(server: &Server, samples: usize, table: &mut Table) -> Result<()> {
    let client = server.client()?;
    let id = create_and_echo(&client).await?;
    let sandbox = client.sandbox(&id);
    let write = ["dd", "if=/dev/urandom", "of=/tmp/file", "bs=1M", "count=16"].map(str::to_owned).to_vec();
    sandbox.exec(&ExecRequest { command: write, ..ExecRequest::default() }).await?;
    let (mut running, mut paused, mut forked, mut made) =
        (Times::default(), Times::default(), Times::default(), Times::default());
    for resting in [false, true] {
        if resting {
            sandbox.pause().await?;
        }
        for _ in 0..samples {
            let (taken, took) = timed(async { Ok(sandbox.snapshot(None).await?) }).await?;
            if resting {
                paused.add(took)
            } else {
                running.add(took)
            }
            client.remove_snapshot(&taken.id).await?;
        }
    }
    for _ in 0..samples {
        let (forks, took) = timed(async { Ok(sandbox.fork(&ForkSandbox::default()).await?) }).await?;
        forked.add(took);
        for fork in forks {
            let Fork::Sandbox(fork) = fork else { bail!("a fork failed: {fork:?}") };
            delete_until_gone(&client, &fork.id).await?;
        }
    }
    let taken = sandbox.snapshot(None).await?;
    for _ in 0..samples {
        let ask = CreateSandbox { image: Some(taken.reference.clone()), ..plain() };
        let (sandbox, took) = timed(async { Ok(client.sandboxes().create(&ask).await?) }).await?;
        made.add(took);
        delete_until_gone(&client, &sandbox.id).await?;
    }
    table.add_times("snapshot of a running sandbox, 16 MiB written", &running, "");
    table.add_times("snapshot of a paused one", &paused, "");
    table.add_times("fork of a paused one -> running", &forked, "10 ms");
    table.add_times("create from a snapshot", &made, "");
    client.remove_snapshot(&taken.id).await?;
    server.delete(&id).await
}

async fn list(server: &Server) -> Result<usize> {
    let answer = server.http()?.get("/api/v1/sandboxes?limit=10").await?.expect(200)?;
    answer["items"].as_array().map(Vec::len).context("no items")
}

async fn list_times(server: &Server) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..50 {
        times.add(timed(list(server)).await?.1);
    }
    Ok(times)
}

/// Many idle sandboxes at once.
pub async fn crowd(server: &Server, size: Size, table: &mut Table) -> Result<()> {
    let client = server.client()?;
    let make = async |count: usize| {
        let all = stream::iter(0..count).map(async |_| client.sandboxes().create(&plain()).await);
        let all = all.buffer_unordered(PARALLEL).try_collect::<Vec<_>>();
        timed(async { Ok(all.await?) }).await
    };
    let before = host::available()?;
    make(10).await?;
    table.add_times("list a page of 10, of 10 sandboxes", &list_times(server).await?, "");
    let (_, took) = make(size.crowd - 10).await?;
    let seconds = took.as_secs_f64();
    let rate = f64::from(u32::try_from(size.crowd - 10)?) / seconds;
    table.add(
        format!("create {} idle sandboxes", size.crowd),
        format!("{seconds:.1} s"),
        "",
        format!("{rate:.0}/s"),
    );
    table.add_times(
        &format!("list a page of 10, of {} sandboxes", size.crowd),
        &list_times(server).await?,
        "flat",
    );
    let server_memory = host::resident(server.pid().context("the server does not run")?)?;
    table.add("server's resident memory then", mib(server_memory), "100 MB", "");
    let each = before.saturating_sub(host::available()?) / u64::try_from(size.crowd)?;
    table.add(
        "host memory per idle sandbox",
        mib(each),
        "2.5 MB",
        "by MemAvailable, the server's share in it",
    );
    let (_, took) = timed(server.clear()).await?;
    table.add(format!("delete {} sandboxes", size.crowd), format!("{:.1} s", took.as_secs_f64()), "", "");
    wait_until("all are gone", async || Ok(list(server).await? == 0)).await
}

fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
