//! Other OCI runtimes as a template's `runtime`: what a sandbox is with our own launcher, it is with each that is installed.
//! One that cannot be had or cannot run here is skipped, with its own words.

use anyhow::{Context, Result, bail, ensure};
use atoll_client::api::{CreateSandbox, ExecRequest, Phase, Sandbox, TemplateSpec};
use atoll_tests::{Options, Run, Server, Skip, built_runtimes, host, server::wait_until, story};
use serde_json::json;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitCode,
};

const RUNTIMES: [&str; 4] = ["runc", "crun", "youki", "runsc"];

/// Places that the server looks for runtimes in, besides the built ones.
const PLACES: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// What a runtime says that cannot run on this machine.
const CANNOT_RUN_HERE: [&str; 2] = ["cgroups in hybrid mode not supported", "is too old"];

fn main() -> ExitCode {
    story("runtimes", async |run: &mut Run| {
        let places = built_runtimes().display().to_string();
        let args = vec!["--runtime-dir".to_owned(), places];
        let mut server = Server::start(Options { args, ..Options::default() }).await?;
        for runtime in RUNTIMES {
            match usable(&server, runtime).await {
                Ok(()) => all(run, &mut server, runtime).await,
                Err(error) => run.case(runtime, async { Err(error) }).await,
            }
        }
        run.case("kata_is_refused_with_the_reason", refused(&server, "kata-runtime", "RuntimeClass")).await;
        run.case("an_unknown_runtime_is_refused", refused(&server, "no-such-runtime", "no-such-runtime"))
            .await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

async fn all(run: &mut Run, server: &mut Server, runtime: &str) {
    let case = |what: &str| format!("{runtime}_{what}");
    run.case(&case("main_job"), main_job(server, runtime)).await;
    run.case(&case("terminal"), terminal(server, runtime)).await;
    run.case(&case("start_command_and_its_log"), logs(server, runtime)).await;
    run.case(&case("stop_and_start_keep_files"), stop_and_start(server, runtime)).await;
    run.case(&case("pause_and_resume"), pause_and_resume(server, runtime)).await;
    run.case(&case("a_killed_server_is_succeeded"), succeeded(server, runtime)).await;
    run.case(&case("limits_are_set"), limits(server, runtime)).await;
    run.case(&case("memory_hog"), memory_hog(server, runtime)).await;
    run.case(&case("fork_bomb"), fork_bomb(server, runtime)).await;
    run.case(&case("disk_filler"), disk_filler(server, runtime)).await;
    run.case(&case("network_ends_where_it_should"), network(server, runtime)).await;
    run.case(&case("without_network"), no_network(server, runtime)).await;
    run.case(&case("its_processes_are_confined"), confined(server, runtime)).await;
    run.case(&case("delete_leaves_nothing"), leaves_nothing(server, runtime)).await;
}

/// Puts the template that names the runtime, and makes a first sandbox of it.
async fn usable(server: &Server, runtime: &str) -> Result<()> {
    let built = built_runtimes();
    let places = PLACES.iter().map(PathBuf::from).chain([built.clone()]);
    if !places.map(|place| place.join(runtime)).any(|program| program.is_file()) {
        let why = fs::read_to_string(built.join(format!("{runtime}.why"))).unwrap_or_default();
        let why =
            if why.is_empty() { "it is not installed; ./test installs or builds it" } else { why.trim() };
        return Err(Skip(why.to_owned()).into());
    }
    put_template(server, runtime).await?;
    match make(server, runtime, CreateSandbox::default()).await {
        Ok(sandbox) => server.delete(&sandbox.id).await,
        Err(error) => {
            let told = format!("{error:#} {}", server.log_end());
            server.clear().await?;
            let words = CANNOT_RUN_HERE.iter().find(|words| told.contains(**words));
            Err(words.map_or(error, |words| Skip(format!("{runtime} says: {words}")).into()))
        }
    }
}

async fn put_template(server: &Server, runtime: &str) -> Result<()> {
    let spec =
        TemplateSpec { image: "base".into(), runtime: Some(runtime.to_owned()), ..TemplateSpec::default() };
    server.client()?.put_template(runtime, &spec).await?;
    Ok(())
}

async fn make(server: &Server, runtime: &str, ask: CreateSandbox) -> Result<Sandbox> {
    server.create_with(CreateSandbox { template: Some(runtime.to_owned()), ..ask }).await
}

async fn plain(server: &Server, runtime: &str) -> Result<Sandbox> {
    make(server, runtime, CreateSandbox::default()).await
}

async fn main_job(server: &Server, runtime: &str) -> Result<()> {
    let sandbox = plain(server, runtime).await?;
    ensure!(sandbox.runtime.as_deref() == Some(runtime), "{sandbox:?}");
    ensure!(server.output(&sandbox.id, &["python3", "-c", "print('hello')"]).await? == "hello");
    let done = server.exec(&sandbox.id, &["sh", "-c", "echo out; echo err >&2; exit 9"]).await?;
    ensure!(done.exit.exit_code == 9, "{done:?}");
    ensure!((done.stdout.as_str(), done.stderr.as_str()) == ("out\n", "err\n"), "{done:?}");
    let killed = server.exec(&sandbox.id, &["sh", "-c", "kill -9 $$"]).await?;
    ensure!(killed.exit.exit_code == 137, "{killed:?}");
    let usual = server.output(&sandbox.id, &["sh", "-c", "echo $(id -un):$(pwd)"]).await?;
    ensure!(usual == "user:/home/user", "{usual}");
    let line = "echo $(id -un):$(pwd):$COLOUR:$HOME";
    let args = ["exec", "-u", "root", "-w", "/usr", "-e", "COLOUR=blue", &sandbox.id, "--", "sh", "-c", line];
    let told = server.cli()?.output(&args).await?;
    ensure!(told == "root:/usr:blue:/root", "{told}");
    ensure!(server.output(&sandbox.id, &["sudo", "id", "-u"]).await? == "0");
    let files = server.client()?.sandbox(&sandbox.id).files();
    files.upload("/tmp/file", "content").await?;
    ensure!(server.output(&sandbox.id, &["cat", "/tmp/file"]).await? == "content");
    server.output(&sandbox.id, &["cp", "/tmp/file", "/home/user/copy"]).await?;
    let mut back = Vec::new();
    files.download("/home/user/copy").await?.write_to(&mut back).await?;
    ensure!(back == b"content", "{back:?}");
    server.delete(&sandbox.id).await
}

async fn terminal(server: &Server, runtime: &str) -> Result<()> {
    let sandbox = plain(server, runtime).await?;
    let cli = server.cli()?;
    let line = "test -t 0 && test -t 1 && echo on $TERM && stty size && exit 3";
    let done = cli.on_terminal(&["exec", "-t", &sandbox.id, "--", "sh", "-c", line], "").await?;
    ensure!(done.code == 3 && done.stdout.contains("on xterm"), "{done:?}");
    let shell = cli.on_terminal(&["shell", &sandbox.id], "echo $((40 + 2)); exit 5\n").await?;
    ensure!(shell.code == 5 && shell.stdout.contains("42"), "{shell:?}");
    server.delete(&sandbox.id).await
}

async fn logs(server: &Server, runtime: &str) -> Result<()> {
    let script = "echo first; echo second >&2; sleep 1000";
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let ask = CreateSandbox { start_command: Some(command), ..CreateSandbox::default() };
    let sandbox = make(server, runtime, ask).await?;
    wait_until("both lines are in the log", async || {
        let logs = server.client()?.sandbox(&sandbox.id).logs(None).await?.logs;
        Ok(logs.contains("first\n") && logs.contains("second\n"))
    })
    .await?;
    server.delete(&sandbox.id).await
}

async fn stop_and_start(server: &Server, runtime: &str) -> Result<()> {
    let sandbox = plain(server, runtime).await?;
    let write = "echo kept >/home/user/note; echo kept too >/tmp/note; ln -s note /home/user/link; chmod 640 /home/user/note";
    server.output(&sandbox.id, &["sh", "-c", write]).await?;
    let handle = server.client()?.sandbox(&sandbox.id);
    ensure!(handle.stop().await?.phase == Phase::Stopped);
    nothing_of(&sandbox.id).await?;
    handle.start().await?;
    let read = "cat /home/user/link /tmp/note; stat -c %a:%U /home/user/note";
    let kept = server.output(&sandbox.id, &["sh", "-c", read]).await?;
    ensure!(kept == "kept\nkept too\n640:user", "{kept}");
    server.delete(&sandbox.id).await
}

async fn pause_and_resume(server: &Server, runtime: &str) -> Result<()> {
    let sandbox = plain(server, runtime).await?;
    let handle = server.client()?.sandbox(&sandbox.id);
    let count = "i=0; while true; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done";
    server.cli()?.output(&["exec", "-d", &sandbox.id, "--", "sh", "-c", count]).await?;
    let counted = async || -> Result<u64> {
        let text = server.exec(&sandbox.id, &["cat", "/tmp/count"]).await?.stdout;
        Ok(text.trim().parse().unwrap_or(0))
    };
    wait_until("it counts", async || Ok(counted().await? > 0)).await?;
    ensure!(handle.pause().await?.phase == Phase::Paused);
    let before = handle.usage().await?.cpu_us;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    ensure!(handle.usage().await?.cpu_us == before, "a paused sandbox used the processor");
    handle.resume().await?;
    let first = counted().await?;
    wait_until("it goes on counting", async || Ok(counted().await? > first)).await?;
    handle.pause().await?;
    ensure!(server.output(&sandbox.id, &["echo", "woken"]).await? == "woken");
    server.delete(&sandbox.id).await
}

async fn succeeded(server: &mut Server, runtime: &str) -> Result<()> {
    let (running, paused) = (plain(server, runtime).await?, plain(server, runtime).await?);
    let script = "sleep 3; echo went on >/tmp/done; sleep 600";
    server.cli()?.output(&["exec", "-d", &running.id, "--", "sh", "-c", script]).await?;
    server.client()?.sandbox(&paused.id).pause().await?;
    server.kill()?;
    ensure!(!host::processes_in_group(&running.id).is_empty(), "the sandbox ended with its server");
    server.launch().await?;
    let client = server.client()?;
    ensure!(client.sandbox(&running.id).get().await?.phase == Phase::Running);
    ensure!(client.sandbox(&paused.id).get().await?.phase == Phase::Paused);
    ensure!(server.output(&running.id, &["echo", "answers"]).await? == "answers");
    wait_until("its command went on", async || {
        Ok(server.exec(&running.id, &["cat", "/tmp/done"]).await?.stdout == "went on\n")
    })
    .await?;
    ensure!(server.output(&paused.id, &["echo", "answers"]).await? == "answers");
    server.delete(&running.id).await?;
    server.delete(&paused.id).await
}

/// What the host's kernel holds the sandbox to: by the file of version 1 of control groups, or that of version 2.
fn limit(id: &str, files: [&str; 2]) -> Result<String> {
    let found = host::group_file(id, files[0]).or_else(|_| host::group_file(id, files[1]))?;
    Ok(found.trim().to_owned())
}

async fn limits(server: &Server, runtime: &str) -> Result<()> {
    let [cpu, memory] = ["500m", "128Mi"].map(|text| Some(text.to_owned()));
    let sandbox =
        make(server, runtime, CreateSandbox { cpu, memory, pids: Some(64), ..CreateSandbox::default() })
            .await?;
    let quota = limit(&sandbox.id, ["cpu.cfs_quota_us", "cpu.max"])?;
    ensure!(quota == "50000" || quota == "50000 100000", "{quota}");
    ensure!(limit(&sandbox.id, ["memory.limit_in_bytes", "memory.max"])? == "134217728");
    let swap = limit(&sandbox.id, ["memory.memsw.limit_in_bytes", "memory.swap.max"])?;
    ensure!(swap == "134217728" || swap == "0", "{swap}");
    let pids: u64 = limit(&sandbox.id, ["pids.max", "pids.max"])?.parse()?;
    ensure!(if own_kernel(runtime) { pids < 1000 } else { pids == 64 }, "{pids}");
    server.delete(&sandbox.id).await
}

/// gVisor's memory is all in one process outside: want of it ends the sandbox, where other runtimes lose only the hog.
fn own_kernel(runtime: &str) -> bool {
    runtime == "runsc"
}

async fn memory_hog(server: &Server, runtime: &str) -> Result<()> {
    let ask = CreateSandbox { memory: Some("128Mi".into()), ..CreateSandbox::default() };
    let (sandbox, neighbour) = (make(server, runtime, ask).await?, plain(server, runtime).await?);
    server.output(&sandbox.id, &["sh", "-c", "echo kept >/home/user/note"]).await?;
    let handle = server.client()?.sandbox(&sandbox.id);
    let hog = server.exec(&sandbox.id, &["python3", "-c", "x = bytearray(1 << 30)"]).await;
    if own_kernel(runtime) {
        ensure!(hog.is_err(), "{hog:?}");
        wait_until("it is seen as failed", async || Ok(handle.get().await?.phase == Phase::Failed)).await?;
        let reason = handle.get().await?.reason;
        ensure!(reason.message.contains("run out of its 128Mi of memory"), "{reason:?}");
        handle.start().await?;
    } else {
        let hog = hog?;
        ensure!(hog.exit.exit_code == 137 && hog.exit.oom_killed, "{hog:?}");
        ensure!(handle.usage().await?.oom_kills >= 1);
    }
    ensure!(server.output(&sandbox.id, &["cat", "/home/user/note"]).await? == "kept");
    ensure!(server.output(&neighbour.id, &["echo", "fine"]).await? == "fine");
    server.delete(&sandbox.id).await?;
    server.delete(&neighbour.id).await
}

async fn fork_bomb(server: &Server, runtime: &str) -> Result<()> {
    let ask = CreateSandbox { pids: Some(64), ..CreateSandbox::default() };
    let (sandbox, neighbour) = (make(server, runtime, ask).await?, plain(server, runtime).await?);
    let bomb = "import os, signal\nn = 0\ntry:\n  while n < 5000:\n    if os.fork() == 0: signal.pause()\n    n += 1\nexcept OSError as e: print(e.errno, n, flush=True)";
    let command = ["python3", "-c", bomb].map(str::to_owned).to_vec();
    let request = ExecRequest { command, timeout: Some(20.0), ..ExecRequest::default() };
    let done = server.client()?.sandbox(&sandbox.id).exec(&request).await?;
    let forked = done.stdout.trim().strip_prefix("11 ").with_context(|| format!("{done:?}"))?;
    ensure!(forked.parse::<u64>()? <= 64, "{forked} processes were made");
    ensure!(server.output(&neighbour.id, &["echo", "fine"]).await? == "fine");
    let command = ["bash", "-c", ":(){ :|:& };:"].map(str::to_owned).to_vec();
    let request = ExecRequest { command, timeout: Some(3.0), ..ExecRequest::default() };
    // How it ends is the bomb's luck; that the sandbox can still be taken down is not.
    let _ = server.client()?.sandbox(&sandbox.id).exec(&request).await;
    ensure!(server.output(&neighbour.id, &["echo", "fine"]).await? == "fine");
    server.delete(&sandbox.id).await?;
    server.delete(&neighbour.id).await
}

async fn disk_filler(server: &Server, runtime: &str) -> Result<()> {
    let ask = CreateSandbox { disk: Some("64Mi".into()), ..CreateSandbox::default() };
    let sandbox = make(server, runtime, ask).await?;
    for file in ["/filler", "/tmp/filler"] {
        let line =
            format!("dd if=/dev/urandom of={file} bs=1M count=512; stat -c %s {file}; rm {file}; sync");
        let filled = server.root_shell(&sandbox.id, &line).await?;
        let told = filled.stderr.to_lowercase();
        ensure!(told.contains("no space left") || told.contains("quota exceeded"), "{filled:?}");
        let size: u64 = filled.stdout.trim().parse().with_context(|| format!("{filled:?}"))?;
        ensure!(size <= 80 << 20, "{size} bytes were written");
        wait_until("what was removed is free again", async || {
            let again = "dd if=/dev/zero of=/again bs=1M count=16";
            Ok(server.root_shell(&sandbox.id, again).await?.exit.exit_code == 0)
        })
        .await?;
    }
    server.delete(&sandbox.id).await
}

/// Connects to each HOST:PORT and prints what came of it.
const CONNECT: &str = "import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(':', 1)
    try:
        socket.create_connection((host, int(port)), 3)
        print(target, 'CONNECTED')
    except OSError as error:
        print(target, error)";

async fn network(server: &Server, runtime: &str) -> Result<()> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let script = "import socket\ns = socket.create_server(('', 7000))\nprint('listening', flush=True)\nwhile True: print(s.accept()[1], flush=True)";
    let listen = ["python3", "-c", script].map(str::to_owned).to_vec();
    let ask = CreateSandbox { start_command: Some(listen), ..CreateSandbox::default() };
    let (neighbour, sandbox) = (make(server, runtime, ask).await?, plain(server, runtime).await?);
    let logs =
        async || Ok::<_, anyhow::Error>(server.client()?.sandbox(&neighbour.id).logs(None).await?.logs);
    wait_until("the neighbour listens", async || Ok(logs().await?.contains("listening"))).await?;
    let address = server.output(&neighbour.id, &["hostname", "-I"]).await?;
    let way_out =
        server.output(&sandbox.id, &["awk", "/^nameserver/ { print $2 }", "/etc/resolv.conf"]).await?;
    let output = std::process::Command::new("hostname").arg("-I").output()?;
    let own = String::from_utf8(output.stdout)?;
    let hosts = own.split_whitespace().filter(|address| address.contains('.')).chain([way_out.as_str()]);
    let mut targets: Vec<_> = hosts.map(|host| format!("{host}:{port}")).collect();
    targets.extend([format!("{}:7000", address.trim()), "169.254.169.254:80".to_owned()]);
    let command: Vec<_> =
        ["python3", "-c", CONNECT].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let told = server.output(&sandbox.id, &command).await?;
    ensure!(told.lines().count() == targets.len() && !told.contains("CONNECTED"), "{told}");
    ensure!(logs().await?.trim() == "listening", "the neighbour was connected to");
    let names = server.output(&sandbox.id, &["python3", "-c", CONNECT, &format!("{way_out}:53")]).await?;
    ensure!(names.contains("CONNECTED"), "the name server is not reached: {names}");
    let privileged = "import socket; socket.create_server(('127.0.0.1', 80))";
    let bound = server.root_shell(&sandbox.id, &format!("python3 -c \"{privileged}\"")).await?;
    ensure!(bound.exit.exit_code == 0, "root inside cannot use port 80: {bound:?}");
    server.delete(&sandbox.id).await?;
    server.delete(&neighbour.id).await
}

async fn no_network(server: &Server, runtime: &str) -> Result<()> {
    let network = serde_json::from_value(json!({"mode": "none"}))?;
    let sandbox =
        make(server, runtime, CreateSandbox { network: Some(network), ..CreateSandbox::default() }).await?;
    let links = "import socket; print(*[name for _, name in socket.if_nameindex()])";
    let links = server.output(&sandbox.id, &["python3", "-c", links]).await?;
    ensure!(links == "lo", "{links}");
    let told =
        server.output(&sandbox.id, &["python3", "-c", CONNECT, "1.1.1.1:53", "169.254.169.254:80"]).await?;
    ensure!(!told.contains("CONNECTED"), "{told}");
    server.delete(&sandbox.id).await
}

/// As the host's kernel sees it. gVisor's processes are the host's root, in a root of their own with few capabilities, and
/// what runs inside never reaches the host's kernel but through its filter.
async fn confined(server: &Server, runtime: &str) -> Result<()> {
    const SYS_ADMIN_AND_MODULE: u64 = 1 << 21 | 1 << 16;
    let sandbox = plain(server, runtime).await?;
    server.cli()?.output(&["exec", "-d", "-u", "root", &sandbox.id, "--", "sleep", "600"]).await?;
    let pids = host::processes_in_group(&sandbox.id);
    ensure!(pids.len() >= 2, "sees {pids:?} of the sandbox");
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("no {name}"))
        };
        ensure!(field("Seccomp:")? == "2", "process {pid} runs without a filter");
        let uids = field("Uid:")?;
        ensure!(
            own_kernel(runtime) || uids.split_whitespace().all(|uid| uid != "0"),
            "process {pid} is the host's root: {uids}"
        );
        let capabilities = u64::from_str_radix(field("CapEff:")?, 16)?;
        ensure!(capabilities & SYS_ADMIN_AND_MODULE == 0, "process {pid} has {capabilities:x}");
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        ensure!(namespace(&pid.to_string())? != namespace("self")?, "process {pid} is in the host's network");
    }
    server.delete(&sandbox.id).await
}

async fn leaves_nothing(server: &Server, runtime: &str) -> Result<()> {
    let (running, paused) = (plain(server, runtime).await?, plain(server, runtime).await?);
    server.client()?.sandbox(&paused.id).pause().await?;
    let state = server.data().join("run/oci").join(runtime);
    ensure!(!entries(&state)?.is_empty(), "the runtime keeps no state in {}", state.display());
    for id in [&running.id, &paused.id] {
        server.delete(id).await?;
        nothing_of(id).await?;
        let left: Vec<_> = entries(&state)?.into_iter().filter(|name| name.contains(id.as_str())).collect();
        ensure!(left.is_empty(), "{} still has {left:?}", state.display());
    }
    Ok(())
}

/// The first process is waited for by the machine's own, which may take a moment.
async fn nothing_of(id: &String) -> Result<()> {
    wait_until("nothing of the sandbox is left on the host", async || {
        let left = host::Snapshot::take()?.since(&host::Snapshot::default(), std::slice::from_ref(id));
        ensure!(left.is_empty(), "{left:#?}");
        Ok(true)
    })
    .await
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

async fn refused(server: &Server, runtime: &str, reason: &str) -> Result<()> {
    put_template(server, runtime).await?;
    let answer = server.http()?.post("/api/v1/sandboxes", json!({"template": runtime})).await?;
    answer.refusal(501)?;
    let told = answer.body["error"].as_str().unwrap_or_default();
    ensure!(told.contains(runtime) && told.contains(reason), "{told}");
    if !server.list().await?.is_empty() {
        bail!("a refused creation left a sandbox");
    }
    Ok(server.client()?.remove_template(runtime).await?)
}
