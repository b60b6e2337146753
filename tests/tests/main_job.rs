//! The main job through the command line and the API, as a person does it: run, exec, copy, logs, remove, and the calls
//! of older clients word for word. It must not look at how a sandbox is made.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Phase};
use atoll_tests::{Options, Run, Server, Skip, server::wait_until, story};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::ExitCode;

fn main() -> ExitCode {
    story("main_job", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        command_line(run, &server).await;
        api(run, &server).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

async fn command_line(run: &mut Run, server: &Server) {
    run.case("run_prints_hello", run_prints_hello(server)).await;
    run.case("exit_codes_are_the_programs", exit_codes(server)).await;
    run.case("run_removes_its_sandbox", run_removes(server)).await;
    run.case("run_feeds_standard_input", run_feeds(server)).await;
    run.case("exec_without_terminal", exec_plain(server)).await;
    run.case("exec_on_a_terminal", exec_terminal(server)).await;
    run.case("shell", shell(server)).await;
    run.case("exec_keeps_streams_apart", streams_apart(server)).await;
    run.case("exec_user_workdir_env", exec_options(server)).await;
    run.case("copy_a_file_both_ways", copy_file(server)).await;
    run.case("copy_a_folder_both_ways", copy_folder(server)).await;
    run.case("logs_follow_the_start_command", logs_follow(server)).await;
    run.case("create_ls_get_rm", create_ls_get_rm(server)).await;
    run.case("an_id_may_be_shortened", short_ids(server)).await;
    run.case("json_everywhere", json_everywhere(server)).await;
    run.case("pause_and_resume", pause_and_resume(server)).await;
    run.case("stop_and_start_keeps_files", stop_and_start(server)).await;
    run.case("each_start_is_a_boot", boots(server)).await;
    run.case("templates", templates(server)).await;
    run.case("completions_and_help", completions(server)).await;
    run.case("doctor", doctor(server)).await;
    run.case("without_key_or_server_it_says_what_it_needs", helpful_errors(server)).await;
}

async fn api(run: &mut Run, server: &Server) {
    run.case("create_streamed", create_streamed(server)).await;
    run.case("create_polled", create_polled(server)).await;
    run.case("exec_streamed_and_cancelled", exec_streamed(server)).await;
    run.case("ttl_ends_a_sandbox", ttl(server)).await;
    run.case("pages_and_labels", pages_and_labels(server)).await;
    run.case("idempotency_keys", idempotency(server)).await;
    run.case("keys_and_tenants", keys_and_tenants(server)).await;
    run.case("health_metrics_and_documentation", documents(server)).await;
    run.case("packages_can_be_used_inside", inside_is_a_usual_system(server)).await;
    run.case("each_file_has_a_number_of_its_own", numbers_of_files(server)).await;
}

async fn run_prints_hello(server: &Server) -> Result<()> {
    let done = server.cli()?.run(&["run", "base", "--", "python3", "-c", r#"print("hello")"#]).await?;
    ensure!((done.code, done.stdout.as_str()) == (0, "hello\n"), "{done:?}");
    Ok(())
}

async fn exit_codes(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let sandbox = server.create().await?;
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)] {
        let done = cli.run(&["exec", &sandbox.id, "--", "sh", "-c", script]).await?;
        ensure!(done.code == code, "{script}: {done:?}");
    }
    let missing = cli.run(&["exec", &sandbox.id, "--", "no-such-program"]).await?;
    ensure!(missing.code == 127 && missing.stderr.contains("no-such-program"), "{missing:?}");
    let no_program = cli.run(&["exec", &sandbox.id, "--", "/etc/passwd"]).await?;
    ensure!(no_program.code == 126, "{no_program:?}");
    let nobody = cli.run(&["exec", "i0000000000000000000", "--", "true"]).await?;
    ensure!(nobody.code == 125, "{nobody:?}");
    server.delete(&sandbox.id).await
}

async fn run_removes(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let done = cli.run(&["run", "-l", "case=removes", "base", "--", "false"]).await?;
    ensure!(done.code == 1, "{done:?}");
    wait_until("the sandbox is removed", async || {
        Ok(cli.output(&["ls", "-a", "-q", "-l", "case=removes"]).await?.is_empty())
    })
    .await?;
    let kept = cli.run(&["run", "--keep", "-l", "case=keeps", "base", "--", "true"]).await?;
    ensure!(kept.code == 0, "{kept:?}");
    let id = cli.output(&["ls", "-q", "-l", "case=keeps"]).await?;
    ensure!(id.len() == 20, "{id:?} is no id");
    server.delete(&id).await
}

async fn run_feeds(server: &Server) -> Result<()> {
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let done = server.cli()?.feed(&["run", "base", "--", "cat"], &bytes).await?;
    ensure!(done.code == 0 && done.bytes == bytes, "{} bytes, {}", done.bytes.len(), done.stderr);
    Ok(())
}

async fn exec_plain(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let done =
        server.cli()?.run(&["exec", &sandbox.id, "--", "sh", "-c", "test -t 0 || echo no terminal"]).await?;
    ensure!((done.code, done.stdout.as_str()) == (0, "no terminal\n"), "{done:?}");
    server.delete(&sandbox.id).await
}

async fn exec_terminal(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let line = "test -t 0 && test -t 1 && echo on $TERM && stty size && exit 3";
    let done = server.cli()?.on_terminal(&["exec", "-t", &sandbox.id, "--", "sh", "-c", line], "").await?;
    ensure!(done.code == 3 && done.stdout.contains("on xterm"), "{done:?}");
    let typed =
        server.cli()?.on_terminal(&["exec", "-t", &sandbox.id, "--", "head", "-n", "1"], "typed\n").await?;
    ensure!(typed.code == 0 && typed.stdout.matches("typed").count() >= 1, "{typed:?}");
    server.delete(&sandbox.id).await
}

async fn shell(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let done = server.cli()?.on_terminal(&["shell", &sandbox.id], "echo $((40 + 2)); exit 5\n").await?;
    ensure!(done.code == 5 && done.stdout.contains("42"), "{done:?}");
    server.delete(&sandbox.id).await
}

async fn streams_apart(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let line = "echo out; echo err >&2";
    let done = server.cli()?.run(&["exec", &sandbox.id, "--", "sh", "-c", line]).await?;
    ensure!((done.stdout.as_str(), done.stderr.as_str()) == ("out\n", "err\n"), "{done:?}");
    server.delete(&sandbox.id).await
}

async fn exec_options(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let line = "echo $(id -un):$(pwd):$COLOUR:$HOME";
    let args = ["exec", "-u", "root", "-w", "/usr", "-e", "COLOUR=blue", &sandbox.id, "--", "sh", "-c", line];
    let told = server.cli()?.output(&args).await?;
    ensure!(told == "root:/usr:blue:/root", "{told}");
    let usual = server.output(&sandbox.id, &["sh", "-c", "echo $(id -un):$(pwd)"]).await?;
    ensure!(usual == "user:/home/user", "{usual}");
    let sudo = server.output(&sandbox.id, &["sudo", "id", "-u"]).await?;
    ensure!(sudo == "0", "{sudo}");
    server.delete(&sandbox.id).await
}

async fn copy_file(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let dir = tempfile::tempdir_in(atoll_tests::scratch())?;
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&there, &bytes)?;
    let (local, inside) = (there.display().to_string(), format!("{}:/tmp/a file", sandbox.id));
    let cli = server.cli()?;
    cli.output(&["cp", &local, &inside]).await?;
    ensure!(server.output(&sandbox.id, &["stat", "-c", "%s", "/tmp/a file"]).await? == "12000000");
    cli.output(&["cp", &inside, &back.display().to_string()]).await?;
    ensure!(std::fs::read(&back)? == bytes, "the file came back changed");
    let missing = cli.run(&["cp", &format!("{}:/nowhere", sandbox.id), &local]).await?;
    ensure!(missing.code == 1 && missing.stderr.contains("/nowhere"), "{missing:?}");
    server.delete(&sandbox.id).await
}

async fn copy_folder(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let dir = tempfile::tempdir_in(atoll_tests::scratch())?;
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("deep/er"))?;
    std::fs::write(tree.join("deep/er/one"), "1")?;
    std::fs::write(tree.join("two words"), "2")?;
    std::os::unix::fs::symlink("deep/er/one", tree.join("link"))?;
    let cli = server.cli()?;
    cli.output(&["cp", &tree.display().to_string(), &format!("{}:/tmp/tree", sandbox.id)]).await?;
    let listed =
        server.output(&sandbox.id, &["sh", "-c", "cd /tmp/tree && find . | sort && cat link"]).await?;
    ensure!(listed == ".\n./deep\n./deep/er\n./deep/er/one\n./link\n./two words\n1", "{listed}");
    cli.output(&["cp", &format!("{}:/tmp/tree", sandbox.id), &dir.path().join("back").display().to_string()])
        .await?;
    ensure!(std::fs::read_link(dir.path().join("back/link"))?.as_os_str() == "deep/er/one");
    ensure!(std::fs::read_to_string(dir.path().join("back/two words"))? == "2");
    server.delete(&sandbox.id).await
}

async fn logs_follow(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let script = "echo first; sleep 1; echo second; sleep 1000";
    let id = cli.output(&["create", "-o", "name", "base", "--", "sh", "-c", script]).await?;
    let follow = cli.command(&["logs", "-f", &id]).spawn()?;
    wait_until("both lines are in the log", async || {
        let logs = cli.output(&["logs", &id]).await?;
        Ok(logs == "first\nsecond")
    })
    .await?;
    server.delete(&id).await?;
    let followed = follow.wait_with_output().await?;
    // Where it is given time to end, the agent tells how it did.
    ensure!(followed.stdout.starts_with(b"first\nsecond\n"), "{followed:?}");
    Ok(())
}

async fn create_ls_get_rm(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let id = cli.output(&["create", "-o", "name", "base", "--cpu", "500m", "--memory", "256Mi"]).await?;
    let listed = cli.output(&["ls"]).await?;
    ensure!(listed.contains(&id), "{listed}");
    let got = cli.json(&["get", &id]).await?;
    ensure!((&got["cpu"], &got["memory"]) == (&json!("500m"), &json!("256Mi")), "{got}");
    ensure!(got["status"] == "running" && got["phase"] == "running", "{got}");
    cli.output(&["rm", &id]).await?;
    wait_until("it is gone", async || Ok(cli.run(&["get", &id]).await?.code == 1)).await
}

async fn short_ids(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let told = server.cli()?.output(&["exec", &sandbox.id[..12], "--", "echo", "here"]).await?;
    ensure!(told == "here", "{told}");
    server.delete(&sandbox.id).await
}

async fn json_everywhere(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let sandbox = server.create().await?;
    let images = match server.cluster() {
        // The nodes' affair there.
        Some(_) => (&["templates", "ls"][..], ""),
        None => (&["images", "ls"][..], "digest"),
    };
    for (args, has) in [
        images,
        (&["ls"][..], "id"),
        (&["get", &sandbox.id], "id"),
        (&["usage", &sandbox.id], "memory_bytes"),
        (&["templates", "ls"], ""),
        (&["keys", "ls"], "role"),
        (&["version"], "version"),
    ] {
        let text = cli.json(args).await?.to_string();
        ensure!(has.is_empty() || text.contains(&format!("\"{has}\"")), "{args:?}: {text}");
    }
    server.delete(&sandbox.id).await
}

async fn pause_and_resume(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let sandbox = server.create().await?;
    let count = "i=0; while true; do i=$((i+1)); echo $i >/tmp/count; sleep 0.01; done";
    cli.output(&["exec", "-d", &sandbox.id, "--", "sh", "-c", count]).await?;
    wait_until("it counts", async || {
        Ok(server.exec(&sandbox.id, &["test", "-s", "/tmp/count"]).await?.exit.exit_code == 0)
    })
    .await?;
    cli.output(&["pause", &sandbox.id]).await?;
    let paused = server.client()?.sandbox(&sandbox.id).get().await?;
    ensure!(paused.phase == Phase::Paused, "{paused:?}");
    let used = async || Ok::<_, anyhow::Error>(server.client()?.sandbox(&sandbox.id).usage().await?.cpu_us);
    let before = used().await?;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    // On a cluster the agent, who tells it, is counted as well.
    let most = if server.cluster().is_some() { 50_000 } else { 0 };
    let more = used().await? - before;
    ensure!(more <= most, "a paused sandbox used the processor for {more} us");
    cli.output(&["resume", &sandbox.id]).await?;
    let first: u64 = server.output(&sandbox.id, &["cat", "/tmp/count"]).await?.parse().unwrap_or(0);
    wait_until("it goes on counting", async || {
        let now: u64 = server.output(&sandbox.id, &["cat", "/tmp/count"]).await?.parse().unwrap_or(0);
        Ok(now > first)
    })
    .await?;
    server.delete(&sandbox.id).await
}

async fn stop_and_start(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let sandbox = server.create_keeping().await?;
    server.output(&sandbox.id, &["sh", "-c", "echo kept >/home/user/note"]).await?;
    cli.output(&["stop", &sandbox.id]).await?;
    let stopped = cli.json(&["get", &sandbox.id]).await?;
    ensure!(stopped["status"] == "stopped", "{stopped}");
    let refused = cli.run(&["exec", &sandbox.id, "--", "true"]).await?;
    ensure!(refused.code == 125 || refused.code == 0, "{refused:?}");
    cli.output(&["start", &sandbox.id]).await?;
    ensure!(server.output(&sandbox.id, &["cat", "/home/user/note"]).await? == "kept");
    cli.output(&["restart", &sandbox.id]).await?;
    ensure!(server.output(&sandbox.id, &["cat", "/home/user/note"]).await? == "kept");
    server.delete(&sandbox.id).await
}

/// Programs tell by the boot's id that memory was lost; it must not be the host's, which tells machines apart.
async fn boots(server: &Server) -> Result<()> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    if server.cluster().is_some() {
        return Err(Skip("on a cluster a container's boot is its node's".into()).into());
    }
    let sandbox = server.create_keeping().await?;
    let boot = async || server.output(&sandbox.id, &["cat", BOOT_ID]).await;
    let first = boot().await?;
    ensure!(first.len() == 36 && first == boot().await?, "{first:?}");
    ensure!(first != std::fs::read_to_string(BOOT_ID)?.trim(), "it is the host's");
    let paused = server.client()?.sandbox(&sandbox.id);
    paused.pause().await?;
    paused.resume().await?;
    ensure!(first == boot().await?, "a pause is no boot");
    server.cli()?.output(&["restart", &sandbox.id]).await?;
    ensure!(first != boot().await?, "a start is one");
    let change = server
        .exec(&sandbox.id, &["sudo", "sh", "-c", &format!("echo x >{BOOT_ID} || umount {BOOT_ID}")])
        .await?;
    ensure!(change.exit.exit_code != 0, "{change:?}");
    server.delete(&sandbox.id).await
}

async fn templates(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    let dir = tempfile::tempdir_in(atoll_tests::scratch())?;
    let file = dir.path().join("t.toml");
    let path = file.display().to_string();
    std::fs::write(&file, "name = \"story\"\nimage = \"base\"\n[env]\nWHO = \"one\"\n")?;
    cli.output(&["templates", "apply", "-f", &path]).await?;
    std::fs::write(&file, "name = \"story\"\nimage = \"base\"\n[env]\nWHO = \"two\"\n")?;
    cli.output(&["templates", "apply", "-f", &path]).await?;
    let newest = cli.output(&["run", "story", "--", "sh", "-c", "echo $WHO"]).await?;
    let of_first = ["run", "--template", "story", "--template-version", "1", "--", "sh", "-c", "echo $WHO"];
    let first = cli.run(&of_first).await?;
    match server.cluster() {
        Some(_) => ensure!(first.code == 125 && first.stderr.contains("only the newest"), "{first:?}"),
        None => ensure!(first.stdout == "one\n", "{first:?}"),
    }
    ensure!(newest == "two", "{newest}");
    cli.output(&["templates", "rm", "story"]).await?;
    let gone = cli.run(&["templates", "get", "story"]).await?;
    ensure!(gone.code == 1 && gone.stderr.contains("story"), "{gone:?}");
    Ok(())
}

async fn completions(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    for shell in ["bash", "zsh", "fish"] {
        ensure!(cli.output(&["completions", shell]).await?.contains("atoll"), "{shell}");
    }
    let help = cli.output(&["--help"]).await?;
    for word in [
        "run",
        "create",
        "exec",
        "shell",
        "cp",
        "logs",
        "rm",
        "images",
        "templates",
        "doctor",
        "serve",
        "openapi",
    ] {
        ensure!(help.contains(word), "--help does not tell of {word}");
    }
    let openapi: Value = serde_json::from_str(&cli.output(&["openapi"]).await?)?;
    ensure!(openapi["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")), "{}", openapi["openapi"]);
    Ok(())
}

async fn doctor(server: &Server) -> Result<()> {
    // Its exit code says whether all is well, which is the machine's affair.
    let told = server.cli()?.run(&["doctor", "-o", "json"]).await?;
    ensure!(serde_json::from_str::<Value>(&told.stdout)?.is_array(), "{told:?}");
    let checks = server.client()?.doctor().await?.checks;
    let abouts: &[&str] = match server.cluster() {
        Some(_) => &["definitions", "rights", "operator", "tenant", "runtimes"],
        None => &["kernel", "control groups", "overlayfs", "namespaces", "nftables", "disk"],
    };
    for about in abouts {
        let told = checks.iter().any(|check| check.name.to_lowercase().contains(about));
        ensure!(told, "doctor does not tell of {about}: {checks:#?}");
    }
    let silent: Vec<_> = checks.iter().filter(|c| c.status != "ok" && c.mend.is_none()).collect();
    ensure!(silent.is_empty(), "no way to mend: {silent:#?}");
    Ok(())
}

async fn helpful_errors(server: &Server) -> Result<()> {
    let keyless = atoll_tests::cli::Cli::new(&server.url(), Some("wrong"))?.run(&["ls"]).await?;
    ensure!(keyless.code == 1 && keyless.stderr.to_lowercase().contains("key"), "{keyless:?}");
    let nobody = atoll_tests::cli::Cli::new("http://127.0.0.1:1", None)?.run(&["ls"]).await?;
    ensure!(nobody.code == 1 && nobody.stderr.contains("127.0.0.1:1"), "{nobody:?}");
    ensure!(nobody.stderr.trim_end().lines().count() == 1, "{nobody:?}");
    Ok(())
}

async fn create_streamed(server: &Server) -> Result<()> {
    let request = server.http()?.request(Method::POST, "/api/v1/sandboxes");
    let response = request.header("Accept", "text/event-stream").json(&server.ask()).send().await?;
    ensure!(response.status() == 200 || response.status() == 201, "{}", response.status());
    let text = response.text().await?;
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    ensure!(names.first() == Some(&"queued") && names.last() == Some(&"ready"), "{text}");
    let data = text.lines().rfind(|line| line.starts_with("data: ")).context("no data")?;
    let ready: Value = serde_json::from_str(&data["data: ".len()..])?;
    server.delete(ready["sandbox"]["id"].as_str().context("no id")?).await
}

async fn create_polled(server: &Server) -> Result<()> {
    let answer = server.http()?.post("/api/v1/sandboxes?wait=false", server.ask()).await?;
    ensure!(answer.status == 201 || answer.status == 202, "{answer:?}");
    let id = answer.body["id"].as_str().context("no id")?.to_owned();
    let sandbox = server.client()?.sandbox(&id);
    wait_until("it runs", async || Ok(sandbox.get().await?.phase == Phase::Running)).await?;
    server.delete(&id).await
}

async fn exec_streamed(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let path = format!("/api/v1/sandboxes/{}/exec", sandbox.id);
    let body = json!({"command": ["sh", "-c", "echo here; exec sleep 4321"]});
    let request = server.http()?.request(Method::POST, &path).header("Accept", "text/event-stream");
    let mut response = request.json(&body).send().await?;
    let mut seen = String::new();
    while !seen.contains("here") {
        let chunk = response.chunk().await?.context("the stream ended")?;
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    ensure!(running(server, &sandbox.id, "4321").await?, "the command does not run");
    drop(response);
    wait_until("the command is gone with its client", async || {
        Ok(!running(server, &sandbox.id, "4321").await?)
    })
    .await?;
    server.delete(&sandbox.id).await
}

async fn running(server: &Server, id: &str, part: &str) -> Result<bool> {
    let listed = server.output(id, &["ps", "-eo", "args"]).await?;
    Ok(listed.lines().any(|line| line.starts_with("sleep") && line.contains(part)))
}

async fn ttl(server: &Server) -> Result<()> {
    let ask = CreateSandbox { ttl: Some(Some(2)), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    ensure!(sandbox.expires_at.is_some() && sandbox.ttl == Some(2), "{sandbox:?}");
    let handle = server.client()?.sandbox(&sandbox.id);
    wait_until("it is gone", async || Ok(handle.get().await.is_err_and(|e| e.is_not_found()))).await?;
    let never = server.create_with(CreateSandbox { ttl: Some(None), ..CreateSandbox::default() }).await?;
    ensure!(never.expires_at.is_none(), "{never:?}");
    server.delete(&never.id).await
}

async fn pages_and_labels(server: &Server) -> Result<()> {
    let http = server.http()?;
    let labelled = |value: &str| CreateSandbox {
        labels: [("case".to_owned(), "pages".to_owned()), ("n".to_owned(), value.to_owned())].into(),
        ..CreateSandbox::default()
    };
    for value in ["a", "b", "c"] {
        server.create_with(labelled(value)).await?;
    }
    let mut path = "/api/v1/sandboxes?limit=2&label=case%3Dpages".to_owned();
    let mut ids = Vec::new();
    let mut pages = 0;
    loop {
        let page = http.get(&path).await?.expect(200)?;
        pages += 1;
        let items = page["items"].as_array().context("no items")?;
        ids.extend(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/sandboxes?limit=2&label=case%3Dpages&cursor={cursor}");
    }
    ids.sort();
    ids.dedup();
    ensure!((ids.len(), pages) == (3, 2), "{ids:?} on {pages} pages");
    let one = http.get("/api/v1/sandboxes?label=case%3Dpages&label=n%3Db").await?.expect(200)?;
    ensure!(one["items"].as_array().is_some_and(|items| items.len() == 1), "{one}");
    for bad in ["limit=0", "limit=x", "cursor=%ff"] {
        http.get(&format!("/api/v1/sandboxes?{bad}")).await?.refusal(400).with_context(|| bad.to_owned())?;
    }
    futures::future::try_join_all(ids.iter().map(|id| server.delete(id))).await.map(drop)
}

async fn idempotency(server: &Server) -> Result<()> {
    let http = server.http()?;
    let key = atoll_tests::unique("story");
    let ask = |body: Value| {
        http.request(Method::POST, "/api/v1/sandboxes").header("Idempotency-Key", &key).json(&body).send()
    };
    let (one, two) = tokio::join!(ask(server.ask()), ask(server.ask()));
    let (one, two): (Value, Value) = (one?.json().await?, two?.json().await?);
    ensure!(one["id"].is_string() && one["id"] == two["id"], "{one} {two}");
    let other = ask(json!({"image": "base", "cpu": "1"})).await?;
    let other = atoll_tests::http::Answer::of(other).await?;
    ensure!(other.refusal(422)? == "idempotency_mismatch", "{other:?}");
    server.delete(one["id"].as_str().context("no id")?).await
}

async fn keys_and_tenants(server: &Server) -> Result<()> {
    let http = server.http()?;
    http.with_key(None).get("/api/v1/sandboxes").await?.refusal(401)?;
    http.with_key(Some("wrong")).get("/api/v1/sandboxes").await?.refusal(401)?;
    let body = json!({"name": "story", "tenant": "elsewhere", "role": "member"});
    let key = http.post("/api/v1/keys", body).await?;
    let secret = key.body["secret"].as_str().with_context(|| format!("{key:?}"))?.to_owned();
    let member = http.with_key(Some(&secret));
    let sandbox = server.create().await?;
    member.get(&format!("/api/v1/sandboxes/{}", sandbox.id)).await?.refusal(404)?;
    member.delete(&format!("/api/v1/sandboxes/{}", sandbox.id)).await?.refusal(404)?;
    let keys = member.get("/api/v1/keys").await?.expect(200)?.to_string();
    ensure!(keys.contains("elsewhere") && !keys.contains("admin"), "a member sees {keys}");
    member.post("/api/v1/keys", json!({"name": "more", "role": "admin"})).await?.refusal(403)?;
    let bearer =
        http.with_key(None).request(Method::GET, "/api/v1/sandboxes").bearer_auth(&secret).send().await?;
    ensure!(bearer.status() == 200, "{}", bearer.status());
    let id = key.body["id"].as_str().context("no id")?;
    http.delete(&format!("/api/v1/keys/{id}")).await?.expect(204)?;
    member.get("/api/v1/sandboxes").await?.refusal(401)?;
    server.delete(&sandbox.id).await
}

async fn documents(server: &Server) -> Result<()> {
    let anyone = server.http()?.with_key(None);
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs"] {
        anyone.get(path).await?.expect(200).with_context(|| path.to_owned())?;
    }
    anyone.get("/metrics").await?.refusal(401)?;
    let metrics = server.http()?.get("/metrics").await?.expect(200)?;
    ensure!(metrics.as_str().is_some_and(|text| text.contains("# TYPE ")), "{metrics}");
    let unknown = server.http()?.get("/api/v1/nothing").await?;
    unknown.refusal(404)?;
    server.http()?.call(Method::PUT, "/api/v1/sandboxes", Value::Null).await?.refusal(405)?;
    Ok(())
}

/// Programs take two names of one number for one file: the loader for one library, `cp -a` for a hard link.
async fn numbers_of_files(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let program = "import os
os.makedirs('/tmp/own')
for number in range(20000): open(f'/tmp/own/{number}', 'x').close()
home, known, twice, elsewhere = os.stat('/').st_dev, {}, [], []
mounted = {line.split()[4] for line in open('/proc/self/mountinfo')}
for place in ('/usr', '/etc', '/tmp'):
    for folder, _, files in os.walk(place):
        for path in (os.path.join(folder, name) for name in files):
            it = os.lstat(path)
            if it.st_dev != home and path not in mounted: elsewhere.append(path)
            if it.st_nlink == 1 and known.setdefault((it.st_dev, it.st_ino), path) != path: twice.append((path, known[it.st_dev, it.st_ino]))
print(len(known) > 25000, len(twice), twice[:3], len(elsewhere), elsewhere[:3])";
    let told = server.output(&sandbox.id, &["sudo", "python3", "-c", program]).await?;
    ensure!(told == "True 0 [] 0 []", "{told}");
    server.delete(&sandbox.id).await
}

async fn inside_is_a_usual_system(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let line = "set -e; hostname; bash --version >/dev/null; git --version >/dev/null; node --version >/dev/null
        curl --version >/dev/null; python3 -c 'import ssl, sqlite3, multiprocessing'; sudo -n true
        getent hosts localhost >/dev/null; test -w /tmp; test -w /dev/shm; echo x >/dev/null; head -c 8 /dev/urandom | wc -c
        python3 -m venv /tmp/v; (sudo python3 -m http.server 80 >/dev/null 2>&1 & echo $! >/tmp/pid)
        for i in $(seq 50); do curl -fsS http://127.0.0.1/ >/dev/null 2>&1 && echo served && break; sleep 0.1; done";
    let told = server.output(&sandbox.id, &["bash", "-c", line]).await?;
    ensure!(told.contains("8") && told.ends_with("served"), "{told}");
    server.delete(&sandbox.id).await
}
