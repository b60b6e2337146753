//! What snapshots and their copies take of a disk, and what becomes of them where there is no room.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Fork, ForkSandbox};
use atoll_tests::{Options, Server, server::wait_until};
use serde_json::json;

use crate::{all, handle, of, on_disk, remove, shell};

/// What a copy has from its snapshot is told as its own, and not taken twice.
pub async fn counted(server: &Server) -> Result<()> {
    let source = server.create().await?;
    shell(server, &source.id, "dd if=/dev/urandom of=/srv/file bs=1M count=32; sync").await?;
    let free = || rustix::fs::statvfs(server.data().join("disk")).map(|it| it.f_bavail * it.f_frsize);
    let before = free()?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    let copy = of(server, &taken).await?;
    let used = handle(server, &copy)?.usage().await?.disk_bytes.context("not counted")?;
    ensure!((32 << 20..40 << 20).contains(&used), "{used} bytes of 32 MiB");
    ensure!(taken.size.is_some_and(|size| (32 << 20..40 << 20).contains(&size)), "{taken:?}");
    ensure!(free()? + (16 << 20) > before, "the files were copied");
    server.clear().await?;
    remove(server, &taken).await
}

/// A full disk refuses what does not fit, keeps what is there, and nothing half made.
pub async fn full_disk() -> Result<()> {
    let args = ["--storage", "btrfs", "--disk-size", "1Gi"].map(str::to_owned).to_vec();
    let server = Server::start(Options { bare: true, args, ..Options::default() }).await?;
    server.cli()?.output(&["images", "pull", "base"]).await?;
    let source = server.create().await?;
    shell(&server, &source.id, "echo kept >/srv/note").await?;
    server.root_shell(&source.id, "dd if=/dev/urandom of=/srv/filler bs=1M; sync").await?;
    let outcome = handle(&server, &source)?.snapshot(None).await;
    let known = all(&server).await?;
    match &outcome {
        Ok(taken) => ensure!(known == std::slice::from_ref(taken), "{known:?}"),
        Err(error) => {
            ensure!(error.status() == Some(507), "{error:?}");
            ensure!(known.is_empty() && on_disk(&server, "disk/snapshots").is_empty());
        }
    }
    ensure!(shell(&server, &source.id, "cat /srv/note").await? == "kept\n");
    for it in known {
        remove(&server, &it).await?;
    }
    shell(&server, &source.id, "rm /srv/filler; sync").await?;
    // Room is given back in the background.
    wait_until("a fork has room", async || {
        let forked = handle(&server, &source)?.fork(&ForkSandbox::default()).await?.pop();
        match forked.context("no fork")? {
            Fork::Sandbox(copy) => Ok(shell(&server, &copy.id, "cat /srv/note").await? == "kept\n"),
            Fork::Error(error) => {
                ensure!(error.code == "exhausted", "{error:?}");
                Ok(false)
            }
        }
    })
    .await?;
    server.close().await
}

pub async fn resized(server: &Server) -> Result<()> {
    let source = server.create().await?;
    shell(server, &source.id, "dd if=/dev/urandom of=/srv/note bs=1M count=12; sync").await?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    for disk in ["160Mi", "32Mi"] {
        let (image, wanted) = (Some(taken.reference.clone()), Some(disk.to_owned()));
        let copy =
            server.create_with(CreateSandbox { image, disk: wanted, ..CreateSandbox::default() }).await?;
        ensure!(shell(server, &copy.id, "stat -c %s /srv/note").await? == "12582912\n");
        let size = shell(server, &copy.id, "df -B1M --output=size / | tail -n 1").await?;
        let (size, asked): (u64, u64) = (size.trim().parse()?, disk.trim_end_matches("Mi").parse()?);
        ensure!((asked / 2..=asked).contains(&size), "{size} MiB instead of {disk}");
        server.delete(&copy.id).await?;
    }
    for disk in ["8Mi", "13Mi"] {
        let ask = json!({"image": taken.reference, "disk": disk});
        let told = server.http()?.post("/api/v1/sandboxes", ask).await?.expect(400)?;
        ensure!(told["error"].as_str().is_some_and(|it| it.starts_with("disk: ")), "{told}");
    }
    server.clear().await?;
    remove(server, &taken).await
}

/// What is set aside for a copy is refused at once where there is none, and leaves nothing.
pub async fn no_room(server: &Server) -> Result<()> {
    let source = server.create().await?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    let found = rustix::fs::statvfs(server.data())?;
    let disk = (found.f_bavail * found.f_frsize - (64 << 20)).to_string();
    let ask = json!({"image": taken.reference, "disk": disk});
    let refused = server.http()?.post("/api/v1/sandboxes", ask).await?.expect(507)?;
    ensure!(refused["code"] == "exhausted", "{refused}");
    server.clear().await?;
    ensure!(on_disk(server, "disk/sandboxes").is_empty());
    remove(server, &taken).await
}
