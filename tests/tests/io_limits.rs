//! Limits of I/O: what is asked for stands in the kernel's own files, and the kernel's own accounting counts on that
//! device what a sandbox writes. Rates are printed, never asserted.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Io, TemplateSpec};
use atoll_tests::{Options, Run, Server, Skip, host, story};
use serde_json::json;
use std::{os::unix::fs::MetadataExt, path::Path, process::ExitCode, time::Instant};

/// Bytes that a sandbox may write each second, and those that it writes.
const RATE: u64 = 1 << 20;
const WRITTEN: u64 = 3 << 20;

fn main() -> ExitCode {
    story("io_limits", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        run.case("direct_writes_are_throttled_on_btrfs", throttled(&server, None)).await;
        run.case("nothing_is_set_unasked", unasked(&server)).await;
        run.case("all_four_limits_are_set", all_four(&server)).await;
        run.case("limits_come_back_with_a_start", come_back(&server)).await;
        run.case("a_template_limits_and_a_request_replaces", of_template(&server)).await;
        run.case("the_command_line_limits", of_command_line(&server)).await;
        run.case("nonsense_is_refused_by_field", nonsense(&server)).await;
        run.case("an_oci_runtime_limits_too", of_runtime(&server)).await;
        run.case("doctor_says_what_holds", doctor(&server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        let server = Server::start(Options::without_btrfs()).await?;
        run.case("direct_writes_are_throttled_on_ext4", throttled(&server, None)).await;
        run.case("without_btrfs_nothing_is_left_behind", server.close()).await;
        run.case("where_there_is_no_device_it_is_refused", no_device()).await;
        Ok(())
    })
}

fn of_io(io: Io) -> CreateSandbox {
    CreateSandbox { io, ..CreateSandbox::default() }
}

fn write_rate(rate: &str) -> Io {
    Io { write_rate: Some(rate.into()), ..Io::default() }
}

fn one_mebibyte() -> Io {
    write_rate("1Mi")
}

async fn throttled(server: &Server, template: Option<String>) -> Result<()> {
    let sandbox = server.create_with(CreateSandbox { template, ..of_io(one_mebibyte()) }).await?;
    let group = server.group(&sandbox.id).unwrap_or_else(|_| sandbox.id.clone());
    let device = device(server.data())?;
    let limit = limits(&group)?;
    ensure!(limit.contains(&format!("{device} ")), "limited is {limit:?}, not {device}");
    ensure!(limit.contains(&RATE.to_string()), "limited to {limit:?}, not {RATE}");
    let (before, begun) = (written(&group, &device)?, Instant::now());
    let dd = "dd if=/dev/zero of=/home/user/file bs=64k count=48 oflag=direct";
    let done = server.root_shell(&sandbox.id, dd).await?;
    ensure!(done.exit.exit_code == 0, "{done:?}");
    let (seconds, counted) = (begun.elapsed().as_secs_f64(), written(&group, &device)? - before);
    println!(
        "    {counted} bytes counted on {device} in {seconds:.1} s: {:.0} bytes/s",
        counted as f64 / seconds
    );
    ensure!(counted >= WRITTEN, "of {WRITTEN} bytes only {counted} were counted on {device}");
    server.delete(&sandbox.id).await
}

async fn unasked(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    ensure!(sandbox.io.is_none(), "{:?}", sandbox.io);
    let limit = limits(&server.group(&sandbox.id)?)?;
    ensure!(limit.trim().is_empty(), "limited is {limit:?}");
    server.delete(&sandbox.id).await
}

async fn all_four(server: &Server) -> Result<()> {
    let io = Io {
        read_rate: Some("8Mi".into()),
        write_rate: Some("4Mi".into()),
        read_iops: Some(400),
        write_iops: Some(200),
    };
    let sandbox = server.create_with(of_io(io.clone())).await?;
    ensure!(sandbox.io == io, "{:?}", sandbox.io);
    let limit = limits(&server.group(&sandbox.id)?)?;
    for number in [8 << 20, 4 << 20, 400, 200] {
        ensure!(limit.contains(&number.to_string()), "{number} is not in {limit:?}");
    }
    server.delete(&sandbox.id).await
}

async fn come_back(server: &Server) -> Result<()> {
    let sandbox = server.create_with(of_io(one_mebibyte())).await?;
    server.cli()?.output(&["restart", &sandbox.id]).await?;
    let limit = limits(&server.group(&sandbox.id)?)?;
    ensure!(limit.contains(&RATE.to_string()), "limited to {limit:?}, not {RATE}");
    server.delete(&sandbox.id).await
}

async fn of_template(server: &Server) -> Result<()> {
    let io = Io { write_iops: Some(500), ..write_rate("2Mi") };
    let spec = TemplateSpec { image: "base".into(), io, ..TemplateSpec::default() };
    server.client()?.put_template("slow", &spec).await?;
    let ask = CreateSandbox { template: Some("slow".into()), ..of_io(write_rate("3Mi")) };
    let sandbox = server.create_with(ask).await?;
    ensure!(sandbox.io == Io { write_iops: Some(500), ..write_rate("3Mi") }, "{:?}", sandbox.io);
    server.delete(&sandbox.id).await
}

async fn of_command_line(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let flags = ["--disk-write-rate", "1Mi", "--disk-read-iops", "100"];
    let id = cli.output(&[&["create", "-o", "name", "base"], &flags[..]].concat()).await?;
    let got = cli.json(&["get", &id]).await?;
    ensure!(got["io"] == json!({"write_rate": "1Mi", "read_iops": 100}), "{got}");
    let shown = cli.output(&["get", &id]).await?;
    ensure!(shown.contains("write 1Mi/s, 100 reads/s"), "{shown}");
    server.delete(&id).await
}

async fn nonsense(server: &Server) -> Result<()> {
    for (io, field) in [
        (json!({"write_rate": "0"}), "io.write_rate"),
        (json!({"read_rate": "fast"}), "io.read_rate"),
        (json!({"read_rate": "1"}), "io.read_rate"),
        (json!({"read_iops": 0}), "io.read_iops"),
        (json!({"write_iops": 1_u64 << 40}), "io.write_iops"),
        (json!({"rate": "1Mi"}), ""),
    ] {
        let answer = server.http()?.post("/api/v1/sandboxes", json!({"image": "base", "io": io})).await?;
        answer.refusal(400)?;
        ensure!(field.is_empty() || answer.body["field"] == field, "{field}: {answer:?}");
    }
    Ok(())
}

async fn of_runtime(server: &Server) -> Result<()> {
    let runc = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/bin/runc", "/usr/local/sbin/runc"];
    if !runc.iter().any(|path| Path::new(path).exists()) {
        return Err(Skip("runc is not installed".into()).into());
    }
    let spec = TemplateSpec { image: "base".into(), runtime: Some("runc".into()), ..TemplateSpec::default() };
    server.client()?.put_template("by-runc", &spec).await?;
    throttled(server, Some("by-runc".into())).await
}

async fn no_device() -> Result<()> {
    let server = Server::start(Options { in_memory: true, ..Options::without_btrfs() }).await?;
    let ask = json!({"image": "base", "io": {"write_rate": "1Mi"}});
    let answer = server.http()?.post("/api/v1/sandboxes", ask).await?;
    ensure!(answer.status.is_client_error() || answer.status.is_server_error(), "{answer:?}");
    let told = answer.body["error"].as_str().unwrap_or_default();
    ensure!(told.contains("no block device") && told.contains("`io`"), "{answer:?}");
    ensure!(server.list().await?.is_empty(), "something was made");
    server.close().await
}

async fn doctor(server: &Server) -> Result<()> {
    let checks = server.client()?.doctor().await?.checks;
    let told = checks.iter().find(|check| check.name == "I/O limits").context("nothing of I/O limits")?;
    ensure!(told.detail.contains("hold"), "{told:?}");
    Ok(())
}

/// What the group's files of limits say, of either version.
fn limits(group: &str) -> Result<String> {
    let v1 = ["read_bps", "write_bps", "read_iops", "write_iops"]
        .map(|name| format!("blkio.throttle.{name}_device"));
    match host::group_file(group, "io.max") {
        Ok(text) => Ok(text),
        Err(_) => v1.iter().map(|file| host::group_file(group, file)).collect(),
    }
}

/// Bytes that the kernel counts as written to a device by a group.
fn written(group: &str, device: &str) -> Result<u64> {
    let (text, key) = match host::group_file(group, "blkio.throttle.io_service_bytes") {
        Ok(text) => (text, " Write "),
        Err(_) => (host::group_file(group, "io.stat")?, " wbytes="),
    };
    let lines = text.lines().filter(|line| line.starts_with(&format!("{device} ")));
    let numbers = lines.filter_map(|line| line.split_once(key)?.1.split(' ').next()?.parse::<u64>().ok());
    Ok(numbers.sum())
}

/// The device under a directory: by its number, or by what is mounted there, where that number is no device's.
fn device(path: &Path) -> Result<String> {
    let show = |number| format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let own = std::fs::metadata(path)?.dev();
    if rustix::fs::major(own) != 0 {
        return Ok(show(own));
    }
    let found =
        std::process::Command::new("findmnt").args(["-n", "-o", "SOURCE", "-T"]).arg(path).output()?;
    let source = String::from_utf8(found.stdout)?;
    let source = source.trim().split('[').next().context("nothing is mounted")?.to_owned();
    Ok(show(std::fs::metadata(&source).with_context(|| source.clone())?.rdev()))
}
