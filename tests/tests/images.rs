//! Images from a real registry through the API: pulled, pinned, refused with the reason, removed, and full disks survived.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::CreateSandbox;
use atoll_tests::{
    Options, Run, Server,
    registry::{Registry, architecture},
    scratch, story,
};
use reqwest::Method;
use serde_json::json;
use std::{fs::File, io::Read, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    story("images", async |run: &mut Run| {
        let maker = Server::start(Options::default()).await?;
        let kept = Registry::kept(&maker).await?;
        let mirror = format!("http://{}", kept.address());
        let args = ["--registry-mirror", &mirror, "--disk-size", "1536Mi"].map(str::to_owned).to_vec();
        let server = Server::start(Options { bare: true, args, ..Options::default() }).await?;
        run.case("a_short_name_comes_through_the_mirror", short_name(&server)).await;
        run.case("a_pull_tells_how_far_it_is", pull_streamed(&server)).await;
        run.case("unknown_images", unknown(&server, &kept)).await;
        run.case("a_registry_that_is_down", down(&server)).await;
        let odd = tempfile::tempdir_in(scratch())?;
        let own = Registry::start(odd.path()).await?;
        run.case("another_architecture", other_architecture(&server, &own)).await;
        run.case("a_blob_that_was_tampered_with", tampered(&server, &own)).await;
        run.case("disk_full_while_unpacking", disk_full(&server, &own)).await;
        run.case("images_in_use_stay_and_others_go", remove_and_prune(&server)).await;
        run.case("the_second_server_leaves_nothing_behind", server.close()).await;
        run.case("without_ca_certificates_plain_http_works", without_authorities(&mirror)).await;
        drop(kept);
        run.case("nothing_is_left_behind", maker.close()).await;
        Ok(())
    })
}

async fn short_name(server: &Server) -> Result<()> {
    let ask = CreateSandbox { image: Some("python:3.11-slim".into()), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    ensure!(server.output(&sandbox.id, &["python", "-c", "print('hello')"]).await? == "hello");
    ensure!(server.output(&sandbox.id, &["id", "-u"]).await? == "0", "the image names no user: it is root");
    server.delete(&sandbox.id).await
}

/// A machine without the package ca-certificates.
async fn without_authorities(mirror: &str) -> Result<()> {
    let tls = "other.test=https://127.0.0.1:1";
    let args = ["--registry-mirror", mirror, "--registry-mirror", tls, "--disk-size", "1536Mi"];
    let args = args.map(str::to_owned).to_vec();
    let env = vec![("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nowhere")];
    let server = Server::start(Options { bare: true, args, env, ..Options::default() }).await?;
    short_name(&server).await?;
    let answer = server.http()?.post("/api/v1/sandboxes", json!({"image": "other.test/x:1"})).await?;
    let told = answer.body["error"].as_str().unwrap_or_default();
    ensure!(answer.status == 502 && told.contains("install the package ca-certificates"), "{answer:?}");
    server.close().await
}

async fn pull_streamed(server: &Server) -> Result<()> {
    let request =
        server.http()?.request(Method::POST, "/api/v1/images").header("Accept", "text/event-stream");
    let text = request.json(&json!({"reference": "python:3.11-slim"})).send().await?.text().await?;
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    ensure!(names.last() == Some(&"ready"), "{text}");
    let image = server.client()?.images().await?.into_iter().find(|image| image.reference.contains("python"));
    let image = image.context("the image is not listed")?;
    let pinned =
        CreateSandbox { image: Some(format!("python@{}", image.digest)), ..CreateSandbox::default() };
    let sandbox = server.create_with(pinned).await?;
    server.delete(&sandbox.id).await
}

/// Asks for a sandbox of an image that cannot be had, and returns the code of the refusal.
async fn refusal(server: &Server, image: &str) -> Result<String> {
    let answer = server.http()?.post("/api/v1/sandboxes", json!({"image": image})).await?;
    ensure!(answer.status.as_u16() >= 400, "{image}: {answer:?}");
    let told = answer.body["error"].as_str().unwrap_or_default().to_owned();
    let name = image.split('@').next().unwrap_or(image);
    ensure!(told.contains(name), "the text does not name {name}: {told}");
    answer.refusal(answer.status.as_u16())
}

async fn unknown(server: &Server, registry: &Registry) -> Result<()> {
    let address = registry.address();
    for image in ["python:no-such-tag".to_owned(), format!("{address}/no/such:image")] {
        ensure!(refusal(server, &image).await? == "image_not_found", "{image}");
    }
    let zeros = format!("python@sha256:{}", "0".repeat(64));
    let code = refusal(server, &zeros).await?;
    ensure!(["image_not_found", "wrong_digest"].contains(&code.as_str()), "{code}");
    Ok(())
}

async fn down(server: &Server) -> Result<()> {
    let code = refusal(server, "127.0.0.1:1/nothing:listens").await?;
    ensure!(code == "registry_unreachable", "{code}");
    Ok(())
}

/// A tar file with one file of so many zeros, or of noise that no compression makes smaller.
fn layer(bytes: u64, noise: bool) -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir_in(scratch())?;
    let mut file = File::create(dir.path().join("file"))?;
    file.set_len(bytes)?;
    if noise {
        std::io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut file)?;
    }
    let tar = dir.path().join("layer.tar");
    let status = std::process::Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .arg("-C")
        .arg(dir.path())
        .arg("file")
        .status()?;
    ensure!(status.success(), "tar: {status}");
    Ok((dir, tar))
}

async fn other_architecture(server: &Server, registry: &Registry) -> Result<()> {
    let other = if architecture() == "amd64" { "arm64" } else { "amd64" };
    let (_dir, tar) = layer(4096, false)?;
    registry.push("odd/other:latest", &tar, &json!({}), other)?;
    let image = format!("{}/odd/other:latest", registry.address());
    ensure!(refusal(server, &image).await? == "wrong_platform");
    Ok(())
}

async fn tampered(server: &Server, registry: &Registry) -> Result<()> {
    let (_dir, tar) = layer(300_000, true)?;
    registry.push("odd/tampered:latest", &tar, &json!({}), architecture())?;
    let mut blobs = Vec::new();
    files_named(registry.storage(), "data", &mut blobs)?;
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let path = blobs.into_iter().max_by_key(size).context("no blob")?;
    let mut bytes = std::fs::read(&path)?;
    if let Some(last) = bytes.last_mut() {
        *last ^= 0xff;
    }
    std::fs::write(&path, bytes)?;
    let code = refusal(server, &format!("{}/odd/tampered:latest", registry.address())).await?;
    ensure!(["wrong_digest", "image_failed", "registry_failed"].contains(&code.as_str()), "{code}");
    Ok(())
}

fn files_named(dir: &std::path::Path, name: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files_named(&path, name, found)?;
        } else if path.file_name().is_some_and(|last| last == name) {
            found.push(path);
        }
    }
    Ok(())
}

async fn disk_full(server: &Server, registry: &Registry) -> Result<()> {
    let before = server.client()?.images().await?.len();
    let (dir, tar) = layer(1600 << 20, false)?;
    registry.push("odd/huge:latest", &tar, &json!({}), architecture())?;
    drop(dir);
    let body = json!({"image": format!("{}/odd/huge:latest", registry.address())});
    let answer = server.http()?.post("/api/v1/sandboxes", body).await?;
    answer.refusal(answer.status.as_u16())?;
    ensure!(
        answer.status.as_u16() >= 400 && answer.body["error"].as_str().is_some_and(|e| e.contains("huge")),
        "{answer:?}"
    );
    ensure!(server.client()?.images().await?.len() == before, "a half image is listed");
    let ask = CreateSandbox { image: Some("python:3.11-slim".into()), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    server.output(&sandbox.id, &["dd", "if=/dev/urandom", "of=/tmp/room", "bs=1M", "count=64"]).await?;
    server.delete(&sandbox.id).await
}

async fn remove_and_prune(server: &Server) -> Result<()> {
    let client = server.client()?;
    let ask = CreateSandbox { image: Some("python:3.11-slim".into()), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    let reference = client.images().await?.into_iter().map(|i| i.reference).find(|r| r.contains("python:"));
    let reference = reference.context("the image is not listed")?;
    let refused = client.remove_image(&reference).await.err().context("an image in use was removed")?;
    ensure!(refused.status() == Some(409), "{refused:?}");
    client.prune_images().await?;
    ensure!(server.output(&sandbox.id, &["echo", "alive"]).await? == "alive");
    server.delete(&sandbox.id).await?;
    let pruned = client.prune_images().await?;
    ensure!(pruned.images >= 1 && pruned.bytes > 0, "{pruned:?}");
    ensure!(client.images().await?.is_empty());
    Ok(())
}
