//! Throughput of one large file into a sandbox and out of it, beside `cat` through a loopback socket in the same run.

use anyhow::{Context, Result, ensure};
use atoll_tests::{Server, scratch};
use reqwest::Method;
use serde_json::json;
use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{Size, table::Table};

/// Measures and prints.
pub async fn measure(server: &Server, size: Size, table: &mut Table) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(scratch())?;
    let block = vec![0x5a_u8; 1 << 20];
    for _ in 0..size.file >> 20 {
        file.write_all(&block)?;
    }
    let path = file.path().to_owned();
    let cat = tokio::task::spawn_blocking(move || cat(&path)).await??;
    let target = "half of cat";
    table.add("cat through a loopback socket", rate(size.file, cat), "", format!("{} MiB", size.file >> 20));
    let sandbox = server.create().await?;
    let files = server.client()?.sandbox(&sandbox.id).files();
    let begun = Instant::now();
    let reader = tokio::fs::File::open(file.path()).await?;
    files.upload("/tmp/file", atoll_client::body_of(reader)).await?;
    table.add("upload into a sandbox", rate(size.file, begun.elapsed()), target, share(cat, begun.elapsed()));
    let begun = Instant::now();
    let got = files.download("/tmp/file").await?.write_to(&mut tokio::io::sink()).await?;
    ensure!(got == size.file, "{got} bytes came back");
    table.add(
        "download from a sandbox",
        rate(size.file, begun.elapsed()),
        target,
        share(cat, begun.elapsed()),
    );
    server.delete(&sandbox.id).await?;
    as_e2b(server, file.path(), size, cat, table).await
}

/// The same as E2B's clients move files: through the gateway to the agent's `/files`.
async fn as_e2b(server: &Server, file: &Path, size: Size, cat: Duration, table: &mut Table) -> Result<()> {
    let made = server.http()?.post("/sandboxes", json!({"templateID": "base"})).await?.expect(201)?;
    let field = |name: &str| made[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
    let (id, token) = (field("sandboxID")?, field("envdAccessToken")?);
    let client = reqwest::Client::new();
    let call = |method| {
        let request = client.request(method, format!("{}/files?path=/tmp/file&username=user", server.url()));
        request
            .header("e2b-sandbox-id", &id)
            .header("e2b-sandbox-port", "49983")
            .header("x-access-token", &token)
    };
    let begun = Instant::now();
    let reader = tokio::fs::File::open(file).await?;
    let upload = call(Method::POST)
        .header("content-type", "application/octet-stream")
        .body(atoll_client::body_of(reader));
    upload.send().await?.error_for_status()?;
    let mut add =
        |figure: &str, took| table.add(figure, rate(size.file, took), "half of cat", share(cat, took));
    add("upload to /files, as E2B's clients do", begun.elapsed());
    let begun = Instant::now();
    let mut answer = call(Method::GET).send().await?.error_for_status()?;
    let mut got = 0;
    while let Some(chunk) = answer.chunk().await? {
        got += u64::try_from(chunk.len())?;
    }
    ensure!(got == size.file, "{got} bytes came back");
    add("download from /files", begun.elapsed());
    server.delete(&id).await
}

/// Time that `cat` takes to push a file through a socket to a reader that throws it away.
fn cat(path: &Path) -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let begun = Instant::now();
    let line = format!("exec cat \"$1\" >/dev/tcp/127.0.0.1/{port}");
    let mut child = Command::new("bash").args(["-c", &line, "cat"]).arg(path).spawn()?;
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 1 << 20];
    while stream.read(&mut buffer)? > 0 {}
    ensure!(child.wait()?.success(), "cat failed");
    Ok(begun.elapsed())
}

fn rate(bytes: u64, took: Duration) -> String {
    let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    format!("{:.0} MiB/s", f64::from(mib) / took.as_secs_f64())
}

fn share(cat: Duration, took: Duration) -> String {
    format!("{:.2} of cat", cat.as_secs_f64() / took.as_secs_f64())
}
