//! Bad input and faults: each is refused or survived, with a reason, and leaves the host and the other sandboxes alone.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Encoding, ExecRequest, Phase};
use atoll_tests::{Options, Run, Server, host, server::wait_until, story};
use reqwest::Method;
use serde_json::{Value, json};
use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    story("faults", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        requests(run, &server).await;
        hogs(run, &server).await;
        clients(run, &server).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

async fn requests(run: &mut Run, server: &Server) {
    run.case("bodies_that_make_no_sense", senseless_bodies(server)).await;
    run.case("names_that_are_not_valid", invalid_names(server)).await;
    run.case("limits_above_the_machine", limits_above(server)).await;
    run.case("ttl_zero_and_negative", ttl_not_positive(server)).await;
    run.case("idempotency_key_with_another_body", other_body(server)).await;
    run.case("images_that_cannot_be_had", images_not_had(server)).await;
    run.case("refused_creations_leave_nothing", refusals_leave_nothing(server)).await;
    run.case("path_traversal", path_traversal(server)).await;
}

async fn hogs(run: &mut Run, server: &Server) {
    run.case("memory_hog", memory_hog(server)).await;
    run.case("fork_bomb", fork_bomb(server)).await;
    run.case("a_full_sandbox_says_so_and_can_be_restarted", full_of_processes(server)).await;
    run.case("disk_filler", disk_filler(server)).await;
    run.case("processor_hog_is_held_to_its_limit", processor_hog(server)).await;
    run.case("command_line_of_10_mb", long_command_line(server)).await;
    run.case("binary_output", binary_output(server)).await;
    run.case("output_without_end", endless_output(server)).await;
    run.case("a_process_that_ignores_sigterm", ignores_sigterm(server)).await;
    run.case("open_files_and_inotify_are_per_sandbox", many_descriptors(server)).await;
}

async fn clients(run: &mut Run, server: &Server) {
    run.case("client_leaves_in_the_middle_of_an_exec", leaves_exec(server)).await;
    run.case("client_leaves_in_the_middle_of_an_upload", leaves_upload(server)).await;
    run.case("deleted_as_soon_as_it_was_asked_for", deleted_at_once(server)).await;
    run.case("client_that_never_finishes_its_header", slow_header(server)).await;
    run.case("sigkill_of_an_agent", agent_killed(server)).await;
}

async fn senseless_bodies(server: &Server) -> Result<()> {
    let http = server.http()?;
    for (body, field) in [
        (json!({}), "image"),
        (json!({"image": "base", "template": "t"}), ""),
        (json!({"image": "base", "cpus": "1"}), ""),
        (json!({"image": "base", "cpu": "lots"}), "cpu"),
        (json!({"image": "base", "memory": "12 apples"}), "memory"),
        (json!({"image": "base", "memory": "1Ki"}), "memory"),
        (json!({"image": "base", "pids": 1}), "pids"),
        (json!({"image": "base", "env": {"A=B": "x"}}), "env"),
        (json!({"image": "base", "labels": {"-": "x"}}), "labels"),
        (json!({"image": "base", "network": {"mode": "none", "allow": ["10.0.0.0/8"]}}), "network"),
        (json!({"image": "base", "network": {"allow": ["nowhere"]}}), "network.allow[0]"),
        (json!([1, 2]), ""),
    ] {
        let answer = http.post("/api/v1/sandboxes", body.clone()).await?;
        answer.refusal(400).with_context(|| body.to_string())?;
        let named = answer.body["field"].as_str().unwrap_or_default();
        ensure!(named.starts_with(field), "{body}: names {named:?} instead of {field:?}");
    }
    let request = http.request(Method::POST, "/api/v1/sandboxes").header("Content-Type", "application/json");
    let broken = atoll_tests::http::Answer::of(request.body("{\"image\": ").send().await?).await?;
    broken.refusal(400)?;
    Ok(())
}

async fn invalid_names(server: &Server) -> Result<()> {
    let http = server.http()?;
    for id in [
        "x",
        "..%2f..%2fetc",
        "i0000000000000000000",
        "I0000000000000000000",
        "%00",
        "ihhhhhhhhhhhhhhhhhhh%2F",
    ] {
        let answer = http.get(&format!("/api/v1/sandboxes/{id}")).await?;
        ensure!(answer.status == 404 || answer.status == 400, "{id}: {answer:?}");
    }
    for name in ["A", "a_b", "-a", "a.b", &"a".repeat(64), "..%2Fa"] {
        let answer =
            http.call(Method::PUT, &format!("/api/v1/templates/{name}"), json!({"image": "base"})).await?;
        ensure!(answer.status == 400, "{name}: {answer:?}");
    }
    let unknown = http.post("/api/v1/sandboxes", json!({"template": "no-such-template"})).await?;
    unknown.refusal(400)?;
    ensure!(unknown.body["field"] == "template", "{unknown:?}");
    Ok(())
}

async fn limits_above(server: &Server) -> Result<()> {
    let http = server.http()?;
    for (field, value) in
        [("cpu", json!("1000")), ("memory", json!("100Ti")), ("disk", json!("1Pi")), ("pids", json!(1 << 30))]
    {
        let mut body = json!({"image": "base"});
        body[field] = value;
        let answer = http.post("/api/v1/sandboxes", body).await?;
        answer.refusal(400)?;
        ensure!(answer.body["field"] == field, "{answer:?}");
    }
    Ok(())
}

async fn ttl_not_positive(server: &Server) -> Result<()> {
    for ttl in [0, -1, i64::MIN, i64::MAX] {
        let answer = server.http()?.post("/api/v1/sandboxes", json!({"image": "base", "ttl": ttl})).await?;
        answer.refusal(400)?;
        ensure!(answer.body["field"] == "ttl", "{answer:?}");
    }
    Ok(())
}

async fn other_body(server: &Server) -> Result<()> {
    let http = server.http()?;
    let key = atoll_tests::unique("faults");
    let ask = |body: Value| {
        http.request(Method::POST, "/api/v1/sandboxes").header("Idempotency-Key", &key).json(&body).send()
    };
    let first: Value = ask(server.ask()).await?.json().await?;
    let other = atoll_tests::http::Answer::of(ask(json!({"image": "base", "pids": 99})).await?).await?;
    other.refusal(422)?;
    let again: Value = ask(server.ask()).await?.json().await?;
    ensure!(first["id"].is_string() && first["id"] == again["id"], "{first} {again}");
    server.delete(first["id"].as_str().context("no id")?).await
}

async fn images_not_had(server: &Server) -> Result<()> {
    for image in ["127.0.0.1:1/down:latest", "BAD NAME", "", "a/../b", "127.0.0.1:1/x@sha256:12"] {
        let answer = server.http()?.post("/api/v1/sandboxes", json!({"image": image})).await?;
        ensure!(answer.status.is_client_error() || answer.status.is_server_error(), "{image}: {answer:?}");
        answer.refusal(answer.status.as_u16()).with_context(|| image.to_owned())?;
    }
    Ok(())
}

async fn refusals_leave_nothing(server: &Server) -> Result<()> {
    let left = server.list().await?;
    ensure!(left.iter().all(|sandbox| sandbox.phase == Phase::Failed), "{left:#?}");
    server.clear().await
}

async fn path_traversal(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let http = server.http()?;
    let marker = atoll_tests::unique("traversal");
    let secret = std::env::temp_dir().join(&marker);
    std::fs::write(&secret, "of the host")?;
    let climbing = format!("/tmp/../../../../../..{}", secret.display());
    for path in [climbing.as_str(), "/proc/1/root/etc/shadow", "/proc/self/root/../../etc/hostname"] {
        let answer = http.get(&format!("/api/v1/sandboxes/{}/files?path={path}", sandbox.id)).await?;
        ensure!(!answer.body.to_string().contains("of the host"), "{path}: {answer:?}");
    }
    let up = format!("/api/v1/sandboxes/{}/files?path=/tmp/../../../..{}", sandbox.id, secret.display());
    http.request(Method::PUT, &up).body("of the sandbox").send().await?;
    ensure!(std::fs::read_to_string(&secret)? == "of the host", "the host's file was written");
    server
        .root_shell(
            &sandbox.id,
            &format!("ln -sf {0} /tmp/link; ln -sf /../../../../tmp /tmp/dir", secret.display()),
        )
        .await?;
    for path in ["/tmp/link", &format!("/tmp/dir/{marker}")] {
        let answer = http.get(&format!("/api/v1/sandboxes/{}/files?path={path}", sandbox.id)).await?;
        ensure!(!answer.body.to_string().contains("of the host"), "{path}: {answer:?}");
    }
    for path in ["", "relative%00nul"] {
        let answer = http.get(&format!("/api/v1/sandboxes/{}/files?path={path}", sandbox.id)).await?;
        ensure!(answer.status.is_client_error(), "{path}: {answer:?}");
    }
    std::fs::remove_file(&secret)?;
    server.delete(&sandbox.id).await
}

async fn memory_hog(server: &Server) -> Result<()> {
    let ask = CreateSandbox { memory: Some("128Mi".into()), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    let hog = server.exec(&sandbox.id, &["python3", "-c", "x = bytearray(1 << 30)"]).await?;
    ensure!(hog.exit.exit_code == 137 && hog.exit.oom_killed, "{hog:?}");
    ensure!(server.output(&sandbox.id, &["echo", "alive"]).await? == "alive");
    let usage = server.client()?.sandbox(&sandbox.id).usage().await?;
    ensure!(usage.oom_kills >= 1 && usage.memory_peak_bytes <= 160 << 20, "{usage:?}");
    server.delete(&sandbox.id).await
}

async fn fork_bomb(server: &Server) -> Result<()> {
    server.needs_one_machine("the limit of processes is the node's")?;
    let ask = CreateSandbox { pids: Some(64), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    let neighbour = server.create().await?;
    let bomb = "import os, sys\nn = 0\ntry:\n  while n < 5000:\n    if os.fork() == 0: os.pause() if hasattr(os, 'pause') else __import__('signal').pause()\n    n += 1\nexcept OSError as e: print(e.errno, n, flush=True)";
    let command = ["python3", "-c", bomb].map(str::to_owned).to_vec();
    let request = ExecRequest { command, timeout: Some(20.0), ..ExecRequest::default() };
    let done = server.client()?.sandbox(&sandbox.id).exec(&request).await?;
    ensure!(done.stdout.starts_with("11 "), "{done:?}");
    let usage = server.client()?.sandbox(&sandbox.id).usage().await?;
    ensure!(usage.pids <= 64, "{usage:?}");
    ensure!(server.output(&neighbour.id, &["echo", "fine"]).await? == "fine");
    let shell_bomb = ExecRequest {
        command: ["bash", "-c", ":(){ :|:& };:"].map(str::to_owned).to_vec(),
        timeout: Some(3.0),
        ..ExecRequest::default()
    };
    // How it ends is the bomb's luck; that the sandbox can still be taken down is not.
    let _ = server.client()?.sandbox(&sandbox.id).exec(&shell_bomb).await;
    ensure!(server.output(&neighbour.id, &["echo", "fine"]).await? == "fine");
    server.delete(&sandbox.id).await?;
    server.delete(&neighbour.id).await
}

/// Nothing can start where every process is taken; that is said, and there is a way on.
async fn full_of_processes(server: &Server) -> Result<()> {
    server.needs_one_machine("the limit of processes is the node's")?;
    let ask = CreateSandbox { pids: Some(32), ..CreateSandbox::default() };
    let full = server.create_with(ask).await?;
    let sandbox = server.client()?.sandbox(&full.id);
    let fill = "import os, time\nwhile True:\n  try:\n    if os.fork() == 0: time.sleep(600)\n  except OSError: time.sleep(0.01)";
    let command = ["python3", "-c", fill].map(str::to_owned).to_vec();
    let detached = ExecRequest { command, detached: true, ..ExecRequest::default() };
    sandbox.exec(&detached).await?;
    wait_until("every process is taken", async || Ok(sandbox.usage().await?.pids >= 32)).await?;
    let exec = format!("/api/v1/sandboxes/{}/exec", full.id);
    let refused = server.http()?.post(&exec, json!({"command": ["true"]})).await?;
    refused.refusal(507)?;
    let told = refused.body["error"].as_str().unwrap_or_default();
    ensure!(refused.body["code"] == "process_limit" && told.contains("limit of 32 processes"), "{told}");
    sandbox.restart().await?;
    ensure!(server.output(&full.id, &["echo", "fine"]).await? == "fine");
    server.delete(&full.id).await
}

async fn disk_filler(server: &Server) -> Result<()> {
    server.needs_one_machine("the kubelet ends who is over the limit of ephemeral storage")?;
    let ask = CreateSandbox { disk: Some("64Mi".into()), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    let filled =
        server.root_shell(&sandbox.id, "dd if=/dev/urandom of=/filler bs=1M count=512; echo $?").await?;
    let told = filled.stderr.to_lowercase();
    ensure!(told.contains("no space left") || told.contains("quota exceeded"), "{filled:?}");
    let size = server.root_shell(&sandbox.id, "stat -c %s /filler").await?.stdout;
    let size: u64 = size.trim().parse().with_context(|| size.clone())?;
    ensure!(size <= 80 << 20, "{size} bytes were written");
    let neighbour = server.create().await?;
    server.output(&neighbour.id, &["dd", "if=/dev/zero", "of=/tmp/file", "bs=1M", "count=8"]).await?;
    let again = server.root_shell(&sandbox.id, "rm /filler && sync && for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/again bs=1M count=16 2>/dev/null && echo fits && break; sleep 1; done").await?;
    ensure!(again.stdout.contains("fits"), "after deleting its own file it cannot write: {again:?}");
    server.delete(&neighbour.id).await?;
    server.delete(&sandbox.id).await
}

async fn processor_hog(server: &Server) -> Result<()> {
    let ask = CreateSandbox { cpu: Some("200m".into()), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    let spin = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\nprint(time.process_time())";
    let used: f64 = server.output(&sandbox.id, &["python3", "-c", spin]).await?.parse()?;
    ensure!(used < 1.2, "used {used} s of processor time in 3 s, limited to a fifth");
    server.delete(&sandbox.id).await
}

async fn long_command_line(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let body = json!({"command": ["echo", "x".repeat(10 << 20)]});
    let answer = server.http()?.post(&format!("/api/v1/sandboxes/{}/exec", sandbox.id), body).await?;
    answer.refusal(400)?;
    ensure!(server.output(&sandbox.id, &["echo", "alive"]).await? == "alive");
    server.delete(&sandbox.id).await
}

async fn binary_output(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096)";
    let bytes: Vec<u8> = (0..=255).cycle().take(256 * 4096).collect();
    let told = server.cli()?.run(&["exec", &sandbox.id, "--", "python3", "-c", script]).await?;
    ensure!(
        told.bytes == bytes,
        "the command line changed the bytes: {} of {}",
        told.bytes.len(),
        bytes.len()
    );
    let command = ["python3", "-c", script].map(str::to_owned).to_vec();
    let exact =
        ExecRequest { command: command.clone(), encoding: Encoding::Base64, ..ExecRequest::default() };
    let answer = server.client()?.sandbox(&sandbox.id).exec(&exact).await?;
    ensure!(
        answer.stdout.len() == bytes.len().div_ceil(3) * 4,
        "{} characters of base64",
        answer.stdout.len()
    );
    let text = server
        .client()?
        .sandbox(&sandbox.id)
        .exec(&ExecRequest { command, ..ExecRequest::default() })
        .await?;
    ensure!(text.stdout.contains('\u{fffd}'), "invalid UTF-8 was not replaced");
    server.delete(&sandbox.id).await
}

async fn endless_output(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let command = ["yes"].map(str::to_owned).to_vec();
    let request = ExecRequest { command, timeout: Some(3.0), ..ExecRequest::default() };
    let done = server.client()?.sandbox(&sandbox.id).exec(&request).await?;
    ensure!(done.truncated && done.exit.timed_out, "{:?}", done.exit);
    let memory = host::resident(server.pid().context("no process")?)?;
    ensure!(memory < 400 << 20, "the server uses {memory} bytes");
    server.delete(&sandbox.id).await
}

async fn ignores_sigterm(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let script =
        "trap '' TERM INT HUP; (trap '' TERM; sleep 7654) & echo started; while true; do sleep 1; done";
    let command = ["bash", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest { command, timeout: Some(1.0), ..ExecRequest::default() };
    let done = server.client()?.sandbox(&sandbox.id).exec(&request).await?;
    ensure!(done.exit.timed_out && done.stdout == "started\n", "{done:?}");
    wait_until("its whole group is gone", async || {
        Ok(!server.output(&sandbox.id, &["ps", "-eo", "args"]).await?.contains("7654"))
    })
    .await?;
    let stubborn = CreateSandbox {
        start_command: Some(
            ["bash", "-c", "trap '' TERM; while true; do sleep 1; done"].map(str::to_owned).to_vec(),
        ),
        ..CreateSandbox::default()
    };
    let other = server.create_with(stubborn).await?;
    server.delete(&other.id).await?;
    server.delete(&sandbox.id).await
}

async fn many_descriptors(server: &Server) -> Result<()> {
    let greedy = server.create().await?;
    let script = "import ctypes, time\nc = ctypes.CDLL(None)\nn = 0\nwhile c.inotify_init1(0) >= 0: n += 1\nprint(n, flush=True)\ntime.sleep(600)";
    let client = server.client()?;
    let command = ["python3", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest { command, detached: true, ..ExecRequest::default() };
    client.sandbox(&greedy.id).exec(&request).await?;
    let modest = server.create().await?;
    let got = server
        .output(
            &modest.id,
            &["python3", "-c", "import ctypes; print(ctypes.CDLL(None).inotify_init1(0) >= 0)"],
        )
        .await?;
    ensure!(got == "True", "one sandbox took the inotify instances of all");
    server.delete(&modest.id).await?;
    server.delete(&greedy.id).await
}

async fn leaves_exec(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let path = format!("/api/v1/sandboxes/{}/exec", sandbox.id);
    let body = json!({"command": ["sh", "-c", "sleep 8765 & sleep 8765"]});
    let request = server.http()?.request(Method::POST, &path).json(&body).timeout(Duration::from_secs(2));
    ensure!(request.send().await.is_err_and(|error| error.is_timeout()), "the exec ended by itself");
    wait_until("the command and its children are gone", async || {
        Ok(!server.output(&sandbox.id, &["ps", "-eo", "args"]).await?.contains("8765"))
    })
    .await?;
    server.delete(&sandbox.id).await
}

async fn leaves_upload(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let path = format!("/api/v1/sandboxes/{}/files?path=/home/user/up/big", sandbox.id);
    let chunks = futures::stream::unfold(0, async |n| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, std::io::Error>(vec![7_u8; 1 << 16]), n + 1))
    });
    let request = server.http()?.request(Method::PUT, &path).body(reqwest::Body::wrap_stream(chunks));
    ensure!(request.timeout(Duration::from_secs(2)).send().await.is_err(), "an endless upload ended");
    wait_until("nothing of the upload is left", async || {
        let listed =
            server.root_shell(&sandbox.id, "find /home/user -type f -size +30k; find /tmp -type f").await?;
        Ok(listed.stdout.is_empty())
    })
    .await?;
    server.delete(&sandbox.id).await
}

async fn slow_header(server: &Server) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut stream = tokio::net::TcpStream::connect(server.address()).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-").await?;
        held.push(stream);
    }
    ensure!(server.http()?.get("/healthz").await?.status == 200);
    for mut stream in held {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        ensure!(read.is_ok(), "an unfinished header is waited for without end");
    }
    Ok(())
}

async fn deleted_at_once(server: &Server) -> Result<()> {
    let http = server.http()?;
    // Each is a pod there, which takes a node its time.
    let times = if server.cluster().is_some() { 10 } else { 30 };
    for _ in 0..times {
        let asked = http.post("/api/v1/sandboxes?wait=false", server.ask()).await?.expect(202)?;
        let id = asked["id"].as_str().context("no id")?;
        http.delete(&format!("/api/v1/sandboxes/{id}")).await?.expect(204)?;
    }
    wait_until("all are gone", async || Ok(server.list().await?.is_empty())).await
}

async fn agent_killed(server: &Server) -> Result<()> {
    server.needs_one_machine("processes are another machine's")?;
    let sandbox = server.create().await?;
    server.output(&sandbox.id, &["sh", "-c", "echo kept >/home/user/note"]).await?;
    let first =
        first_process(server.processes(&sandbox.id)?).context("no process of the sandbox on the host")?;
    host::signal(first, rustix::process::Signal::KILL)?;
    let handle = server.client()?.sandbox(&sandbox.id);
    wait_until("it is seen as failed", async || Ok(handle.get().await?.phase == Phase::Failed)).await?;
    let failed = handle.get().await?;
    ensure!(failed.reason.code == "agent_died", "{failed:?}");
    let refused = server
        .http()?
        .post(&format!("/api/v1/sandboxes/{}/exec", sandbox.id), json!({"command": ["true"]}))
        .await?;
    refused.refusal(409)?;
    handle.start().await?;
    ensure!(server.output(&sandbox.id, &["cat", "/home/user/note"]).await? == "kept", "its files are gone");
    server.delete(&sandbox.id).await
}

/// The one that is number 1 inside the sandbox.
fn first_process(pids: Vec<u32>) -> Option<u32> {
    pids.into_iter().find(|&pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        inner.is_some_and(|pids| pids.split_whitespace().last() == Some("1"))
    })
}
