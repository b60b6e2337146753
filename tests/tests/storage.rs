//! Where btrfs cannot be had: each sandbox's files are an ext4 in a file of the data directory. The main job, the limit of
//! the disk, rest, a machine that was switched off, and what a data directory remembers.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Phase};
use atoll_tests::{Options, Run, Server, host, server::wait_until, story};
use rustix::process::Signal;
use serde_json::json;
use std::process::ExitCode;

fn main() -> ExitCode {
    story("storage", async |run: &mut Run| {
        let mut server = Server::start(Options::without_btrfs()).await?;
        run.case("run_prints_hello", run_prints_hello(&server)).await;
        run.case("inside_is_a_usual_system", inside(&server)).await;
        run.case("disk_filler", disk_filler(&server)).await;
        run.case("usage_is_told_running_and_stopped", usage(&server)).await;
        run.case("stop_and_start_keeps_files", stop_and_start(&server)).await;
        run.case("the_machine_has_no_mount", no_mount(&server)).await;
        run.case("the_room_is_taken_at_once", room_is_taken(&server)).await;
        run.case("a_disk_that_cannot_be_set_aside_is_refused", too_much(&server)).await;
        run.case("doctor_says_what_is_lost", doctor(&server)).await;
        run.case("a_machine_that_was_switched_off", switched_off(&mut server)).await;
        run.case("a_directory_stays_what_it_is", stays(&mut server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        run.case("a_destroyed_directory_leaves_nothing", destroyed()).await;
        Ok(())
    })
}

fn of_disk(disk: &str) -> CreateSandbox {
    CreateSandbox { disk: Some(disk.into()), ..CreateSandbox::default() }
}

async fn run_prints_hello(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let done =
        cli.run(&["run", "--disk", "64Mi", "base", "--", "python3", "-c", r#"print("hello")"#]).await?;
    ensure!((done.code, done.stdout.as_str()) == (0, "hello\n"), "{done:?}");
    Ok(())
}

/// Owners are the sandbox's own, links and replaced files of the image work, and root can become a user and back.
async fn inside(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let line = "set -e; touch /etc/of-root; mv /etc/passwd /etc/passwd- && cp -a /etc/passwd- /etc/passwd; \
                rm /etc/issue; ln /etc/of-root /etc/linked; mkdir /srv/deep; chown user:user /srv/deep; \
                mkfifo /srv/pipe; stat -c %U:%G:%h /etc/of-root /srv/deep; ls -A / | grep -c lost+found || true";
    let done = server.root_shell(&sandbox.id, line).await?;
    ensure!(done.stdout == "root:root:2\nuser:user:2\n0\n", "{done:?}");
    let sudo = server.output(&sandbox.id, &["sudo", "sh", "-c", "id -u; echo x >/home/user/x"]).await?;
    ensure!(sudo == "0", "{sudo}");
    server.delete(&sandbox.id).await
}

async fn disk_filler(server: &Server) -> Result<()> {
    let (sandbox, neighbour) = (server.create_with(of_disk("48Mi")).await?, server.create().await?);
    let free = free(server)?;
    let filled = server.root_shell(&sandbox.id, "dd if=/dev/urandom of=/filler bs=1M count=512").await?;
    ensure!(filled.stderr.to_lowercase().contains("no space left"), "{filled:?}");
    let size: u64 = server.output(&sandbox.id, &["stat", "-c", "%s", "/filler"]).await?.parse()?;
    ensure!((24 << 20..48 << 20).contains(&size), "{size} bytes were written");
    server.root_shell(&sandbox.id, "sync").await?;
    ensure!(self::free(server)? + (8 << 20) > free, "the machine's own disk was filled");
    server.output(&neighbour.id, &["dd", "if=/dev/zero", "of=/tmp/file", "bs=1M", "count=8"]).await?;
    let again = "rm /filler && dd if=/dev/zero of=/again bs=1M count=16 && rm /again && echo fits";
    let again = server.root_shell(&sandbox.id, again).await?;
    ensure!(again.stdout.contains("fits"), "after deleting its own file it cannot write: {again:?}");
    server.delete(&neighbour.id).await?;
    server.delete(&sandbox.id).await
}

/// What is free on the file system of the data directory. Others use it meanwhile, a little.
fn free(server: &Server) -> Result<u64> {
    let found = rustix::fs::statvfs(server.data())?;
    Ok(found.f_bavail * found.f_frsize)
}

async fn usage(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let handle = server.client()?.sandbox(&sandbox.id);
    let told = async || Ok::<_, anyhow::Error>(handle.usage().await?.disk_bytes.context("not counted")?);
    let empty = told().await?;
    ensure!(empty < 1 << 20, "{empty} bytes of a new sandbox");
    server.root_shell(&sandbox.id, "dd if=/dev/urandom of=/file bs=1M count=20; sync").await?;
    let running = told().await?;
    ensure!((20 << 20..22 << 20).contains(&running), "{running} bytes of 20 MiB while it runs");
    handle.stop().await?;
    let stopped = told().await?;
    ensure!(stopped.abs_diff(running) < 1 << 20, "{running} bytes, {stopped} when stopped");
    server.delete(&sandbox.id).await
}

async fn stop_and_start(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let handle = server.client()?.sandbox(&sandbox.id);
    for round in 0..5 {
        // Not written back yet when it is stopped.
        let line = format!("seq 100000 >/home/user/note; echo {round} >>/home/user/rounds");
        server.output(&sandbox.id, &["sh", "-c", &line]).await?;
        handle.stop().await?;
        handle.start().await?;
        let kept = server.output(&sandbox.id, &["sh", "-c", "cat /home/user/note | wc -l"]).await?;
        ensure!(kept == "100000", "{kept} lines of 100000 after round {round}");
    }
    let rounds = server.output(&sandbox.id, &["cat", "/home/user/rounds"]).await?;
    ensure!(rounds == "0\n1\n2\n3\n4", "{rounds}");
    server.delete(&sandbox.id).await
}

/// Only the sandbox sees its file system; a loop device is there while it runs, and not longer.
async fn no_mount(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let seen = |kind: &str| {
        let all =
            host::Snapshot::take()?.since(&host::Snapshot::default(), std::slice::from_ref(&sandbox.id));
        Ok::<_, anyhow::Error>(all.iter().filter(|line| line.starts_with(kind)).count())
    };
    ensure!((seen("mount")?, seen("loop device")?) == (0, 1), "while it runs");
    let handle = server.client()?.sandbox(&sandbox.id);
    handle.stop().await?;
    ensure!(seen("loop device")? == 0, "when it is stopped");
    handle.start().await?;
    ensure!(seen("loop device")? == 1, "when it runs again");
    server.delete(&sandbox.id).await?;
    ensure!(seen("")? == 0, "when it is deleted");
    Ok(())
}

async fn room_is_taken(server: &Server) -> Result<()> {
    let sandbox = server.create_with(of_disk("100Mi")).await?;
    let file = std::fs::metadata(server.data().join("disk/sandboxes").join(&sandbox.id))?;
    let taken = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
    ensure!(taken >= 100 << 20, "{taken} bytes are taken");
    server.delete(&sandbox.id).await
}

async fn too_much(server: &Server) -> Result<()> {
    let disk = (free(server)? - (64 << 20)).to_string();
    let answer = server.http()?.post("/api/v1/sandboxes", json!({"image": "base", "disk": disk})).await?;
    let told = answer.body.to_string();
    ensure!(answer.status.is_server_error() || answer.status.is_client_error(), "{answer:?}");
    ensure!(told.contains("set aside") && told.contains("disk"), "{answer:?}");
    let left = server.list().await?;
    ensure!(left.iter().all(|sandbox| sandbox.phase == Phase::Failed), "{left:#?}");
    ensure!(std::fs::read_dir(server.data().join("disk/sandboxes"))?.count() == 0, "a file is left");
    server.clear().await
}

async fn doctor(server: &Server) -> Result<()> {
    let checks = server.client()?.doctor().await?.checks;
    let storage = checks.iter().find(|check| check.name == "storage").context("nothing of the storage")?;
    ensure!(storage.status == "warn" && storage.detail.contains("ext4"), "{storage:?}");
    ensure!(storage.detail.contains("20 ms") && storage.detail.contains("fork"), "{storage:?}");
    Ok(())
}

/// Everything that ran is gone at once, as after a power cut, but for what was on the disk.
async fn switched_off(server: &mut Server) -> Result<()> {
    let (ran, rested) = (server.create().await?, server.create().await?);
    for sandbox in [&ran, &rested] {
        server.output(&sandbox.id, &["sh", "-c", "echo kept >/home/user/note; sync"]).await?;
    }
    server.client()?.sandbox(&rested.id).stop().await?;
    let pids = server.processes(&ran.id)?;
    server.kill()?;
    for pid in pids {
        // Those inside end with the first one, perhaps before their turn.
        let _ = host::signal(pid, Signal::KILL);
    }
    another_boot(server, &ran.id)?;
    server.launch().await?;
    let client = server.client()?;
    let found = client.sandbox(&ran.id).get().await?;
    ensure!((found.phase, found.reason.code.as_str()) == (Phase::Stopped, "host_restarted"), "{found:?}");
    for sandbox in [ran, rested] {
        client.sandbox(&sandbox.id).start().await?;
        ensure!(server.output(&sandbox.id, &["cat", "/home/user/note"]).await? == "kept");
        server.delete(&sandbox.id).await?;
    }
    Ok(())
}

/// Makes the record say that its process was of another boot.
fn another_boot(server: &Server, id: &str) -> Result<()> {
    let path = server.data().join("sandboxes").join(id).join("record.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    record["process"]["boot"] = json!("another");
    Ok(std::fs::write(&path, record.to_string())?)
}

async fn stays(server: &mut Server) -> Result<()> {
    server.stop().await?;
    let data = server.data().display().to_string();
    let other = ["serve", "--data", &data, "--listen", "127.0.0.1:0", "--storage", "btrfs"];
    let done = atoll_tests::cli::Cli::new("http://127.0.0.1:1", None)?.run(&other).await?;
    ensure!(done.code != 0 && done.stderr.contains("was made with ext4"), "{done:?}");
    server.launch().await
}

async fn destroyed() -> Result<()> {
    let before = host::Snapshot::take()?;
    let mut server = Server::start(Options::without_btrfs()).await?;
    server.create().await?;
    let stopped = server.create().await?;
    server.client()?.sandbox(&stopped.id).stop().await?;
    server.kill()?;
    let marks = host::marks(server.data());
    server.destroy()?;
    let rest = ["disk", "sandboxes", "storage"].map(|name| server.data().join(name).exists());
    ensure!(rest == [false; 3], "{rest:?} of disk, sandboxes, storage are left");
    wait_until("nothing is left on the host", async || {
        let left = host::Snapshot::take()?.since(&before, &marks);
        ensure!(left.is_empty(), "left on the host: {left:#?}");
        Ok(true)
    })
    .await
}
