//! Templates built by their steps, at the paths of E2B's clients: in real sandboxes, with files that are uploaded, kept by
//! snapshots, and tried before anybody uses them.

use anyhow::{Context, Result, ensure};
use atoll_tests::{Options, Run, Server, Skip, http::Answer, server::wait_until_within, story};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{process::ExitCode, time::Duration};

/// A build makes several sandboxes; a server that died is missed after 20 seconds.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    story("builds", async |run: &mut Run| {
        let mut server = Server::start(Options::default()).await?;
        let asked = server.http()?.post("/v3/templates", json!({"name": "able"})).await?;
        if asked.status == 501 {
            server.close().await?;
            return Err(Skip(format!("this server builds no templates: {}", asked.body["message"])).into());
        }
        run.case("steps_become_a_template", steps(&server)).await;
        run.case("what_is_known_is_not_done_twice", cached(&server)).await;
        run.case("a_failing_step_is_named", failing(&server)).await;
        run.case("files_come_with_owner_and_mode", copies(&server)).await;
        run.case("an_archive_that_leads_out_is_refused", hostile(&server)).await;
        run.case("a_template_is_the_base_of_another", derived(&server)).await;
        run.case("a_start_command_runs_before_anybody_is_answered", ready(&server)).await;
        run.case("a_start_command_that_fails_is_told", bad_start(&server)).await;
        run.case("a_build_whose_server_is_killed", killed(&mut server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

fn step(kind: &str, args: &[&str]) -> Value {
    json!({"type": kind, "args": args, "force": false})
}

/// Asks for a build and begins it; gives the path of its status.
async fn begun(server: &Server, name: &str, body: Value) -> Result<String> {
    let http = server.http()?;
    let ask = json!({"name": name, "cpuCount": 1, "memoryMB": 512});
    let made = http.post("/v3/templates", ask).await?.expect(202)?;
    let text = |field: &str| made[field].as_str().map(str::to_owned).with_context(|| made.to_string());
    let path = format!("/templates/{}/builds/{}", text("templateID")?, text("buildID")?);
    http.post(&format!("/v2{path}"), body).await?.expect(202)?;
    Ok(format!("{path}/status"))
}

async fn over(server: &Server, path: &str) -> Result<Value> {
    let mut told = Value::Null;
    wait_until_within(PATIENCE, "the build is over", async || {
        told = server.http()?.get(path).await?.expect(200)?;
        Ok(told["status"] != "building")
    })
    .await?;
    Ok(told)
}

async fn built(server: &Server, name: &str, body: Value) -> Result<Value> {
    over(server, &begun(server, name, body).await?).await
}

/// Builds it, and makes a sandbox of it.
async fn made(server: &Server, name: &str, body: Value) -> Result<String> {
    let told = built(server, name, body).await?;
    ensure!(told["status"] == "ready", "{told:#}");
    let ask = json!({"templateID": name, "timeout": 600});
    let sandbox = server.http()?.post("/v2/sandboxes", ask).await?.expect(201)?;
    sandbox["sandboxID"].as_str().map(str::to_owned).with_context(|| sandbox.to_string())
}

async fn line(server: &Server, id: &str, line: &str) -> Result<String> {
    server.output(id, &["bash", "-c", line]).await
}

fn has(told: &Value, text: &str) -> bool {
    told["logEntries"].as_array().is_some_and(|lines| {
        lines.iter().any(|line| line["message"].as_str().is_some_and(|message| message.contains(text)))
    })
}

async fn steps(server: &Server) -> Result<()> {
    let steps = json!([
        step("RUN", &["id -un >/tmp/who; pwd >/tmp/where"]),
        step("RUN", &["id -un >/tmp/root", "root"]),
        step("ENV", &["WORD", "with ü", "PATH", "$PATH:/my/path"]),
        step("RUN", &["[ \"${PATH##*:}\" = /my/path ] && echo \"<$WORD>\""]),
        step("WORKDIR", &["/srv/app"]),
        step("RUN", &["touch made"]),
        step("USER", &["bob"]),
        step("RUN", &["id -un >/tmp/bob"]),
    ]);
    let told = built(server, "steps", json!({"fromImage": "e2bdev/base", "steps": steps})).await?;
    ensure!(told["status"] == "ready" && has(&told, "[stdout]: <with ü>"), "{told:#}");
    let ask = json!({"templateID": "steps"});
    let sandbox = server.http()?.post("/v2/sandboxes", ask).await?.expect(201)?;
    let id = sandbox["sandboxID"].as_str().context("an id")?;
    let left =
        line(server, id, "cd /tmp; echo $(cat who where root bob); ls /srv/app; stat -c %U /srv/app").await?;
    ensure!(left == "user /home/user root bob\nmade\nuser", "{left}");
    let now = line(server, id, "id -un; pwd; echo $WORD").await?;
    ensure!(now == "bob\n/srv/app\nwith ü", "what the last steps said holds for its sandboxes: {now}");
    server.delete(id).await
}

async fn cached(server: &Server) -> Result<()> {
    let steps = json!([step("RUN", &["date +%N >/tmp/when"]), step("RUN", &["true"])]);
    let body = json!({"fromImage": "base", "steps": steps});
    let one = made(server, "cached-one", body.clone()).await?;
    let two = built(server, "cached-two", body.clone()).await?;
    ensure!(has(&two, "CACHED [builder 2/2] RUN true"), "{two:#}");
    let two = made(server, "cached-two", body.clone()).await?;
    let when = async |id: &str| line(server, id, "cat /tmp/when").await;
    ensure!(when(&one).await? == when(&two).await?, "a step was done twice");
    let mut force = body;
    force["force"] = json!(true);
    let three = made(server, "cached-three", force).await?;
    ensure!(when(&one).await? != when(&three).await?, "a forced step was taken from the cache");
    for id in [one, two, three] {
        server.delete(&id).await?;
    }
    Ok(())
}

async fn failing(server: &Server) -> Result<()> {
    let steps = json!([
        step("RUN", &["true"]),
        step("RUN", &["echo to the log >&2; exit 42"]),
        step("RUN", &["true"])
    ]);
    let told = built(server, "failing", json!({"fromImage": "base", "steps": steps})).await?;
    let reason = &told["reason"];
    ensure!(told["status"] == "error" && reason["step"] == "2" && has(&told, "to the log"), "{told:#}");
    ensure!(reason["message"].as_str().is_some_and(|it| it.contains("exit status 42")), "{reason}");
    let ask = json!({"templateID": "failing"});
    refused(server.http()?.post("/v2/sandboxes", ask).await?, 404)?;
    for (body, step) in [
        (json!({"fromImage": "no-such.invalid/image:1"}), "base"),
        (json!({"fromTemplate": "no-such"}), "base"),
        (json!({"fromImage": "base", "steps": [step("USER", &["; exit 1"])]}), "1"),
        (json!({"fromImage": "base", "steps": [step("WORKDIR", &["/etc/passwd"])]}), "1"),
    ] {
        let told = built(server, "failing", body).await?;
        ensure!(told["status"] == "error" && told["reason"]["step"] == step, "{told:#}");
    }
    none_works(server).await
}

/// Sandboxes in which steps ran go with the build.
async fn none_works(server: &Server) -> Result<()> {
    wait_until_within(PATIENCE, "the sandboxes of builds are gone", async || {
        let all = server.list().await?;
        let left: Vec<_> = all.iter().filter(|it| it.labels.contains_key("atoll.dev/build")).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(true)
    })
    .await
}

/// Errors of this API have a shape of their own.
fn refused(answer: Answer, status: u16) -> Result<()> {
    let body = answer.expect(status)?;
    ensure!(body["code"] == status && body["message"].is_string(), "{body}");
    Ok(())
}

/// An entry of a tar archive (POSIX.1-2017, pax, ustar interchange format).
fn entry(name: &str, kind: u8, mode: u32, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(124, &format!("{:011o}", data.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(157, link);
    put(257, "ustar");
    put(263, "00");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let padding = vec![0; data.len().next_multiple_of(512) - data.len()];
    [&header[..], data, &padding].concat()
}

/// Uploads an archive for a template that is to be built; gives the hash that it goes by.
async fn uploaded(server: &Server, name: &str, entries: &[Vec<u8>]) -> Result<String> {
    let archive = [entries.concat(), vec![0; 1024]].concat();
    let hash: String = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
    let http = server.http()?;
    http.post("/v3/templates", json!({"name": name})).await?.expect(202)?;
    let place = format!("/templates/{name}/files/{hash}");
    let told = http.get(&place).await?.expect(201)?;
    let url = told["url"].as_str().context("a place to bring files to")?;
    let path = url.strip_prefix(&server.url()).with_context(|| url.to_owned())?;
    // As clients do: without a key.
    let put = http.with_key(None).request(Method::PUT, path).body(archive).send().await?;
    ensure!(put.status() == 200, "{put:?}");
    ensure!(http.get(&place).await?.expect(201)?["present"] == true, "the files are not there");
    Ok(hash)
}

async fn copies(server: &Server) -> Result<()> {
    let entries = [
        entry("dir/", b'5', 0o755, "", b""),
        entry("dir/a.txt", b'0', 0o644, "", b"from a"),
        entry("dir/.hidden", b'0', 0o600, "", b"hidden"),
        entry("dir/link", b'2', 0o777, "a.txt", b""),
    ];
    let dir = uploaded(server, "copies", &entries).await?;
    let file = uploaded(server, "copies", &[entry("one.sh", b'0', 0o644, "", b"echo one")]).await?;
    let copy =
        |args: &[&str], hash: &str| json!({"type": "COPY", "args": args, "filesHash": hash, "force": false});
    let steps = json!([
        copy(&["dir", "sub/target", "", ""], &dir),
        copy(&["one.sh", "/opt/bin/", "root", "0755"], &file),
        copy(&["one.sh", "/opt/renamed.sh", "root:user", ""], &file),
        copy(&["dir/*.txt", "/etc", "root", ""], &dir),
    ]);
    let id = made(server, "copies", json!({"fromImage": "base", "steps": steps})).await?;
    let seen = line(
        server,
        &id,
        "cd ~/sub/target; cat a.txt .hidden; echo; readlink link; stat -c %U:%a . a.txt .hidden; \
         stat -c %U:%G:%a /opt/bin/one.sh /opt/renamed.sh /etc /etc/a.txt; ls -d /.atoll* 2>/dev/null; /opt/bin/one.sh",
    );
    let expected = "from ahidden\na.txt\nuser:755\nuser:644\nuser:600\n\
        root:root:755\nroot:user:644\nroot:root:755\nroot:root:644\none";
    let seen = seen.await?;
    ensure!(seen == expected, "{seen}");
    server.delete(&id).await
}

async fn hostile(server: &Server) -> Result<()> {
    let evil = |name: &str| entry(name, b'0', 0o644, "", b"evil");
    let name = format!("atoll-evil-{}", std::process::id());
    for (archive, why) in [
        (vec![evil(&format!("../../../../../../tmp/{name}"))], "leads outside"),
        (vec![evil(&format!("/tmp/{name}"))], "leads outside"),
        (vec![entry("out", b'2', 0o777, "/tmp", b""), evil(&format!("out/{name}"))], "leads outside"),
        (vec![entry("device", b'3', 0o666, "", b"")], "a device"),
    ] {
        let hash = uploaded(server, "hostile", &archive).await?;
        let steps = json!([{"type": "COPY", "args": [".", "/srv", "", ""], "filesHash": hash}]);
        let told = built(server, "hostile", json!({"fromImage": "base", "steps": steps})).await?;
        let message = told["reason"]["message"].as_str().unwrap_or_default();
        ensure!(told["status"] == "error" && message.contains(why), "{why}: {told:#}");
        ensure!(!std::path::Path::new("/tmp").join(&name).exists(), "it came out of the sandbox");
    }
    none_works(server).await
}

async fn derived(server: &Server) -> Result<()> {
    let parent = json!([
        step("RUN", &["echo one >/tmp/one"]),
        step("ENV", &["FIRST", "1"]),
        step("WORKDIR", &["/srv/one"])
    ]);
    let told = built(server, "parent", json!({"fromImage": "base", "steps": parent})).await?;
    ensure!(told["status"] == "ready", "{told:#}");
    let child = json!([step("RUN", &["cat /tmp/one >/tmp/two; echo $FIRST $(pwd) >>/tmp/two"])]);
    let id = made(server, "child", json!({"fromTemplate": "parent", "steps": child})).await?;
    let seen = line(server, &id, "cat /tmp/two; pwd").await?;
    ensure!(seen == "one\n1 /srv/one\n/srv/one", "{seen}");
    // Sandboxes and templates stand by themselves.
    server.http()?.delete("/templates/parent").await?.expect(204)?;
    let again = made(server, "child-too", json!({"fromTemplate": "child"})).await?;
    ensure!(line(server, &again, "cat /tmp/one").await? == "one", "a template lost what it stood on");
    server.delete(&again).await?;
    server.delete(&id).await
}

async fn ready(server: &Server) -> Result<()> {
    let body = json!({
        "fromImage": "base",
        "steps": [step("ENV", &["PLACE", "/etc"])],
        "startCmd": "sleep 1; cd $PLACE; exec python3 -m http.server 8123",
        "readyCmd": "[ -n \"$(ss -Htuln sport = :8123)\" ]",
    });
    let id = made(server, "serves", body).await?;
    let page = line(
        server,
        &id,
        "curl -s localhost:8123/hostname; ps -o user= -p $(pgrep -f http.server | head -1)",
    )
    .await?;
    ensure!(page.contains("user"), "the start command runs as the template's user: {page}");
    server.delete(&id).await
}

async fn bad_start(server: &Server) -> Result<()> {
    let body = json!({"fromImage": "base", "startCmd": "./no/such/program", "readyCmd": "sleep 1"});
    let told = built(server, "bad-start", body).await?;
    let reason = &told["reason"];
    ensure!(told["status"] == "error" && reason["step"] == "finalize", "{told:#}");
    ensure!(reason["message"].as_str().is_some_and(|it| it.contains("127")), "{reason}");
    none_works(server).await
}

async fn killed(server: &mut Server) -> Result<()> {
    let steps = json!([step("RUN", &["echo begins; sleep 100"])]);
    let path = begun(server, "killed", json!({"fromImage": "base", "steps": steps})).await?;
    wait_until_within(PATIENCE, "the step runs", async || {
        Ok(has(&server.http()?.get(&path).await?.expect(200)?, "[stdout]: begins"))
    })
    .await?;
    server.kill()?;
    server.launch().await?;
    let told = over(server, &path).await?;
    let message = told["reason"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("went away"), "{told:#}");
    none_works(server).await?;
    let again = json!({"fromImage": "base", "steps": [step("RUN", &["true"])]});
    let told = built(server, "killed", again).await?;
    ensure!(told["status"] == "ready", "{told:#}");
    Ok(())
}
