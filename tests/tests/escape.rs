//! From inside, as root, untrusted code tries to get out, to reach the host and other sandboxes, and to take over what
//! watches it. Each attempt is a case; one that succeeds fails the story.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::CreateSandbox;
use atoll_tests::{Options, Run, Server, story};
use std::{
    collections::BTreeMap,
    io::Write,
    net::{TcpListener, TcpStream},
    process::{ExitCode, Stdio},
};

const PROBE: &str = include_str!("probes/escape.py");

fn main() -> ExitCode {
    story("escape", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        controls(run, &server).await?;
        attempts(run, &server).await?;
        run.case("a_sandbox_without_network_has_only_loopback", no_network(&server)).await;
        run.case("what_is_allowed_works", what_is_allowed(&server)).await;
        run.case("files_of_another_sandbox_are_not_there", files_of_others(&server)).await;
        run.case("every_process_is_confined", every_process_is_confined(&server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

/// The probe's moves where they must succeed: one that is broken would pass for one that was refused.
async fn controls(run: &mut Run, server: &Server) -> Result<()> {
    let thrown_away = "cd / && mount -t tmpfs control /tmp && exec python3 - outside";
    let mut outside = std::process::Command::new("unshare")
        .args(["--mount", "--net", "--ipc", "--uts", "sh", "-c", thrown_away])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    outside.stdin.take().context("no input")?.write_all(PROBE.as_bytes())?;
    let outside = String::from_utf8(outside.wait_with_output()?.stdout)?;
    let sandbox = server.create().await?;
    server.client()?.sandbox(&sandbox.id).files().as_user("root").upload("/tmp/escape.py", PROBE).await?;
    let inside = server.root_shell(&sandbox.id, "python3 /tmp/escape.py inside").await?.stdout;
    for (place, text, least) in [("outside", outside, 30), ("inside", inside, 16)] {
        let told = outcomes(&text);
        run.case(&format!("the_moves_made_{place}_are_all_made"), async {
            ensure!(told.len() >= least, "only {}: {told:?}", told.len());
            Ok(())
        })
        .await;
        for (name, told) in told {
            run.case(&format!("{name}_works_{place}"), async { succeeded(&told) }).await;
        }
    }
    server.delete(&sandbox.id).await
}

fn succeeded(told: &str) -> Result<()> {
    ensure!(told.starts_with("SUCCEEDED"), "the probe itself is broken: {told}");
    Ok(())
}

/// Runs the probe beside a neighbour that listens, and a host that listens on all its addresses.
async fn attempts(run: &mut Run, server: &Server) -> Result<()> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port().to_string();
    let neighbour = server.create_with(listening()).await?;
    let sandbox = server.create().await?;
    let address = server.output(&neighbour.id, &["hostname", "-I"]).await?;
    let own_way_out =
        "ip route show default 2>/dev/null | awk '{print $3}'; awk '{print $2}' /etc/resolv.conf";
    let routers = server.root_shell(&sandbox.id, own_way_out).await?.stdout;
    let hosts = host_addresses()?.into_iter().chain(routers.split_whitespace().map(str::to_owned));
    let hosts: Vec<_> = hosts.filter(|a| a.parse::<std::net::Ipv4Addr>().is_ok()).collect();
    server.client()?.sandbox(&sandbox.id).files().as_user("root").upload("/tmp/escape.py", PROBE).await?;
    run.case("who_must_not_be_reached_is_there", they_listen(server, &neighbour.id, &hosts, &port)).await;
    let line = format!("python3 /tmp/escape.py {} {port} {}:7000", hosts.join(","), address.trim());
    let done = server.root_shell(&sandbox.id, &line).await?;
    run.case("the_probe_runs_to_its_end", probe_ended(&done)).await;
    for (name, told) in outcomes(&done.stdout) {
        run.case(&name, async { refused(&told) }).await;
    }
    run.case("the_sandbox_lives_on", lives_on(server, &sandbox.id)).await;
    run.case("the_neighbour_was_not_connected_to", not_connected(server, &neighbour.id)).await;
    server.delete(&sandbox.id).await?;
    server.delete(&neighbour.id).await
}

/// The neighbour answers itself, and the host whoever stands on it.
async fn they_listen(server: &Server, neighbour: &str, hosts: &[String], port: &str) -> Result<()> {
    let connect = "import socket; socket.create_connection(('127.0.0.1', 7000), timeout=5)";
    server.output(neighbour, &["python3", "-c", connect]).await?;
    let own: Vec<_> = host_addresses()?.into_iter().filter(|address| hosts.contains(address)).collect();
    ensure!(!own.is_empty(), "none of {hosts:?} is the host's own");
    for address in own {
        TcpStream::connect(format!("{address}:{port}")).with_context(|| format!("{address}:{port}"))?;
    }
    Ok(())
}

/// A sandbox that listens on port 7000 and writes down whoever connects.
fn listening() -> CreateSandbox {
    let script = "import socket\ns = socket.create_server(('', 7000))\nprint('listening', flush=True)\nwhile True: print(s.accept()[1], flush=True)";
    let command = ["python3", "-c", script].map(str::to_owned).to_vec();
    CreateSandbox { start_command: Some(command), ..CreateSandbox::default() }
}

fn host_addresses() -> Result<Vec<String>> {
    let output = std::process::Command::new("hostname").arg("-I").output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn outcomes(text: &str) -> BTreeMap<String, String> {
    let split = text.lines().filter_map(|line| line.split_once(' '));
    split.map(|(name, told)| (name.to_owned(), told.to_owned())).collect()
}

async fn probe_ended(done: &atoll_proto::api::ExecResponse) -> Result<()> {
    ensure!(done.exit.exit_code == 0, "{done:?}");
    ensure!(outcomes(&done.stdout).len() > 70, "only {} attempts", outcomes(&done.stdout).len());
    Ok(())
}

/// A move that the kernel did not understand was not refused.
fn refused(told: &str) -> Result<()> {
    ensure!(told.starts_with("refused"), "{told}");
    let broken = ["EINVAL", "EFAULT", "EBADF", "ENOTSUP", "Invalid argument", "Bad "];
    ensure!(!broken.iter().any(|sign| told.contains(sign)), "the probe itself is broken: {told}");
    Ok(())
}

async fn lives_on(server: &Server, id: &str) -> Result<()> {
    ensure!(server.output(id, &["echo", "alive"]).await? == "alive");
    Ok(())
}

async fn not_connected(server: &Server, id: &str) -> Result<()> {
    let logs = server.client()?.sandbox(id).logs(None).await?.logs;
    ensure!(logs.starts_with("listening\n"), "{logs}");
    ensure!(logs.lines().skip(1).all(|peer| peer.contains("'127.0.0.1'")), "{logs}");
    Ok(())
}

async fn no_network(server: &Server) -> Result<()> {
    let network = serde_json::from_value(serde_json::json!({"mode": "none"}))?;
    let sandbox =
        server.create_with(CreateSandbox { network: Some(network), ..CreateSandbox::default() }).await?;
    let links = server.output(&sandbox.id, &["ls", "/sys/class/net"]).await?;
    ensure!(links.split_whitespace().eq(["lo"]), "{links}");
    server.delete(&sandbox.id).await
}

async fn what_is_allowed(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let line = "set -e; chown user /tmp; chown root /tmp; su user -c id >/dev/null; mkdir /x; chmod 700 /x; chroot / true
        python3 -c 'import socket; socket.create_server((\"\", 80))'; kill -0 $$; echo done";
    let done = server.root_shell(&sandbox.id, line).await?;
    ensure!(done.stdout == "done\n", "{done:?}");
    server.delete(&sandbox.id).await
}

async fn files_of_others(server: &Server) -> Result<()> {
    let (one, two) = (server.create().await?, server.create().await?);
    let marker = atoll_tests::unique("marker");
    server.output(&one.id, &["touch", &format!("/home/user/{marker}")]).await?;
    let found = server
        .root_shell(&two.id, &format!("find / -xdev -name '{marker}' 2>/dev/null; ls /proc/*/root/home/user"))
        .await?;
    ensure!(!found.stdout.contains(&marker), "{found:?}");
    server.delete(&one.id).await?;
    server.delete(&two.id).await
}

/// As the host's kernel sees it: no process of a sandbox is the host's root, has a capability over the host, or runs
/// without the filter of system calls.
async fn every_process_is_confined(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    server.cli()?.output(&["exec", "-d", "-u", "root", &sandbox.id, "--", "sleep", "600"]).await?;
    let pids = server.processes(&sandbox.id)?;
    ensure!(pids.len() >= 2, "sees {pids:?} of the sandbox");
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("no {name}"))
        };
        let uids = field("Uid:")?;
        ensure!(uids.split_whitespace().all(|uid| uid != "0"), "process {pid} is the host's root: {uids}");
        ensure!(field("Seccomp:")? == "2", "process {pid} runs without a filter");
        let own = std::fs::read_link("/proc/self/ns/user")?;
        ensure!(
            std::fs::read_link(format!("/proc/{pid}/ns/user"))? != own,
            "process {pid} is in the host's user namespace"
        );
    }
    server.delete(&sandbox.id).await
}
