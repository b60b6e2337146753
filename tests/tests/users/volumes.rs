//! Volumes: what is on them outlives the sandbox, belongs to its user alone, and ends where its size says.

use anyhow::{Context, Result, ensure};
use atoll_client::api::{CreateSandbox, Phase, Sandbox, TemplateSpec, Volume};
use atoll_tests::{Run, Server, Skip, built_runtimes, on_cluster::little, server::wait_until, unique};
use serde_json::json;
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Everything, on one storage; `prefix` tells the cases apart.
pub async fn all(run: &mut Run, server: &mut Server, prefix: &str) {
    let case = |what: &str| format!("{prefix}{what}");
    run.case(&case("files_survive_delete_and_create"), survive(server, None)).await;
    run.case(&case("owners_are_right"), owners(server, None)).await;
    run.case(&case("nobody_reaches_anothers"), apart(server)).await;
    run.case(&case("one_sandbox_at_a_time"), one_at_a_time(server)).await;
    run.case(&case("sizes_hold"), sizes(server, None)).await;
    run.case(&case("they_grow_and_do_not_shrink"), growth(server)).await;
    run.case(&case("links_lead_nowhere_else"), links(server)).await;
    run.case(&case("inside_one_another"), nested(server)).await;
    run.case(&case("a_failed_creation_leaves_none"), failed(server)).await;
    run.case(&case("what_cannot_be_is_refused"), refused(server)).await;
    run.case(&case("they_survive_the_servers_end"), succeeded(server)).await;
    let patience = Duration::from_secs(600);
    run.patient_case(&case("killed_at_every_step_of_a_first_creation"), patience, killed(server)).await;
}

/// What a cluster's volumes have in common with ours: their file system, and who owns their root, are its storage's.
pub async fn on_cluster(run: &mut Run, server: &mut Server) {
    run.case("files_survive_delete_and_create", survive(server, None)).await;
    run.case("nobody_reaches_anothers", apart(server)).await;
    run.case("one_sandbox_at_a_time", one_at_a_time(server)).await;
    run.case("inside_one_another", nested(server)).await;
    run.case("what_cannot_be_is_refused", refused(server)).await;
    run.case("they_survive_the_servers_end", succeeded(server)).await;
}

/// What an OCI runtime could do otherwise.
pub async fn under(run: &mut Run, server: &Server, runtime: &str) {
    let case = |what: &str| format!("{runtime}_{what}");
    run.case(&case("files_survive_delete_and_create"), survive(server, Some(runtime))).await;
    run.case(&case("owners_are_right"), owners(server, Some(runtime))).await;
    run.case(&case("sizes_hold"), sizes(server, Some(runtime))).await;
}

fn volume(path: &str, size: &str) -> Volume {
    Volume { path: path.into(), size: Some(size.into()) }
}

fn spec<const N: usize>(volumes: [(&str, Volume); N]) -> TemplateSpec {
    let volumes: BTreeMap<_, _> = volumes.into_iter().map(|(name, it)| (name.to_owned(), it)).collect();
    TemplateSpec { image: "base".into(), volumes, requests: little(), ..TemplateSpec::default() }
}

/// A template of its own with these volumes.
async fn template<const N: usize>(
    server: &Server,
    runtime: Option<&str>,
    volumes: [(&str, Volume); N],
) -> Result<String> {
    skip_unless_installed(runtime)?;
    let name = unique("t");
    let spec = TemplateSpec { runtime: runtime.map(str::to_owned), ..spec(volumes) };
    server.client()?.put_template(&name, &spec).await?;
    Ok(name)
}

fn skip_unless_installed(runtime: Option<&str>) -> Result<()> {
    let Some(name) = runtime else { return Ok(()) };
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(Path::new);
    let mut places = usual.into_iter().map(Path::to_owned).chain([built_runtimes()]);
    if places.any(|place| place.join(name).is_file()) {
        return Ok(());
    }
    Err(Skip("it is not installed; ./test installs or builds it".into()).into())
}

async fn make(server: &Server, template: &str, owner: &str) -> Result<Sandbox> {
    let (template, owner) = (Some(template.to_owned()), Some(owner.to_owned()));
    server.create_with(CreateSandbox { template, owner, ..CreateSandbox::default() }).await
}

async fn shell(server: &Server, id: &str, line: &str) -> Result<String> {
    server.output(id, &["sh", "-c", line]).await
}

async fn root(server: &Server, id: &str, line: &str) -> Result<String> {
    let done = server.root_shell(id, line).await?;
    ensure!(done.exit.exit_code == 0, "{line}: {done:?}");
    Ok(done.stdout.trim_end().to_owned())
}

async fn survive(server: &Server, runtime: Option<&str>) -> Result<()> {
    let template = template(server, runtime, [("home", volume("/home/user", "64Mi"))]).await?;
    let owner = unique("alice");
    let first = make(server, &template, &owner).await?;
    ensure!(first.volumes["home"].path == "/home/user", "{first:?}");
    shell(server, &first.id, "echo kept >note; mkdir deep; echo x >deep/file; echo gone >/var/tmp/note")
        .await?;
    let handle = server.client()?.sandbox(&first.id);
    handle.pause().await?;
    handle.resume().await?;
    ensure!(shell(server, &first.id, "cat note").await? == "kept");
    handle.stop().await?;
    handle.start().await?;
    ensure!(shell(server, &first.id, "cat note deep/file").await? == "kept\nx");
    if server.cluster().is_none() {
        ensure!(shell(server, &first.id, "cat /var/tmp/note").await? == "gone");
    }
    server.delete(&first.id).await?;
    let second = make(server, &template, &owner).await?;
    ensure!(shell(server, &second.id, "cat note deep/file").await? == "kept\nx");
    ensure!(server.exec(&second.id, &["cat", "/var/tmp/note"]).await?.exit.exit_code != 0);
    shell(server, &second.id, "rm note; echo more >more").await?;
    // At once, while the other is still being taken down.
    server.client()?.sandbox(&second.id).delete().await?;
    let third = make(server, &template, &owner).await?;
    let left = shell(server, &third.id, "cat more; ls note || true").await?;
    ensure!(left == "more", "{left}");
    server.delete(&third.id).await
}

async fn owners(server: &Server, runtime: Option<&str>) -> Result<()> {
    let volumes = [
        ("home", volume("/home/user", "64Mi")),
        ("data", volume("/srv/deep/data", "64Mi")),
        ("etc", volume("/etc/apt", "64Mi")),
    ];
    let template = template(server, runtime, volumes).await?;
    let owner = unique("owner");
    let first = make(server, &template, &owner).await?;
    let id = &first.id;
    ensure!(
        shell(server, id, "stat -c %U:%G:%a /home/user /srv/deep/data /srv/deep").await?
            == "user:user:755\nuser:user:755\nroot:root:755"
    );
    // What the image has there came along, as it is there.
    ensure!(
        shell(server, id, "stat -c %U /home/user/.bashrc /etc/apt/sources.list.d").await? == "user\nroot"
    );
    shell(server, id, "echo mine >/srv/deep/data/mine && touch /home/user/mine").await?;
    root(
        server,
        id,
        "echo root >/srv/deep/data/roots; chmod 600 /srv/deep/data/roots; \
        cp /usr/bin/id /srv/deep/data/id; chmod 4755 /srv/deep/data/id; \
        echo other >/srv/deep/data/others; chown 12345:23456 /srv/deep/data/others",
    )
    .await?;
    ensure!(server.exec(id, &["cat", "/srv/deep/data/roots"]).await?.exit.exit_code != 0);
    let effective = shell(server, id, "/srv/deep/data/id -u").await?;
    ensure!(effective == "0", "a setuid program gives {effective}");
    server.delete(id).await?;
    let second = make(server, &template, &owner).await?;
    let told =
        shell(server, &second.id, "cd /srv/deep/data; stat -c %n:%u:%g:%a mine roots others id").await?;
    ensure!(told == "mine:1000:1000:644\nroots:0:0:600\nothers:12345:23456:644\nid:0:0:4755", "{told}");
    ensure!(root(server, &second.id, "cat /srv/deep/data/roots").await? == "root");
    // Devices cannot be made or used there.
    ensure!(server.root_shell(&second.id, "mknod /srv/deep/data/null c 1 3").await?.exit.exit_code != 0);
    server.delete(&second.id).await
}

async fn apart(server: &Server) -> Result<()> {
    let template = template(server, None, [("home", volume("/home/user", "64Mi"))]).await?;
    let (alice, bob) =
        (make(server, &template, &unique("a")).await?, make(server, &template, &unique("b")).await?);
    shell(server, &alice.id, "echo secret >secret").await?;
    ensure!(server.exec(&bob.id, &["cat", "/home/user/secret"]).await?.exit.exit_code != 0);
    let found = root(
        server,
        &bob.id,
        "find / -xdev -name secret -size -2 2>/dev/null; grep -c /home/user /proc/mounts",
    )
    .await?;
    ensure!(found == "1", "{found}");
    // The same name in another tenant is another volume.
    server.delete(&alice.id).await?;
    server.delete(&bob.id).await
}

async fn one_at_a_time(server: &Server) -> Result<()> {
    let template = template(server, None, [("home", volume("/home/user", "64Mi"))]).await?;
    let owner = unique("carol");
    let first = make(server, &template, &owner).await?;
    let ask = json!({"template": template, "owner": owner, "disk": "64Mi"});
    let second = async || server.http()?.post("/api/v1/sandboxes", ask.clone()).await;
    let told = async |what: &str| {
        let answer = second().await?;
        ensure!(answer.refusal(409)? == "in_use", "{what}: {answer:?}");
        let text = answer.body["error"].as_str().unwrap_or_default();
        ensure!(text.contains("home") && text.contains(&first.id) && text.contains(&owner), "{what}: {text}");
        Ok(())
    };
    told("running").await?;
    let handle = server.client()?.sandbox(&first.id);
    handle.pause().await?;
    told("paused").await?;
    handle.stop().await?;
    told("stopped").await?;
    let all = server.list().await?;
    ensure!(all.iter().filter(|it| it.owner.as_deref() == Some(&owner)).count() == 1, "{all:#?}");
    server.delete(&first.id).await?;
    let answers = futures::future::join_all((0..5).map(|_| second())).await;
    let made: Vec<_> = answers.into_iter().flatten().filter(|it| it.status == 201).collect();
    ensure!(made.len() == 1, "{} of 5 at once were made", made.len());
    server.delete(made[0].body["id"].as_str().context("no id")?).await
}

/// How much of what is written to a place fits there, in MiB.
async fn fill(server: &Server, id: &str, file: &str) -> Result<u64> {
    let line =
        format!("dd if=/dev/urandom of={file} bs=1M count=512; sync; stat -c %s {file}; rm {file}; sync");
    let filled = server.root_shell(id, &line).await?;
    let told = filled.stderr.to_lowercase();
    ensure!(told.contains("no space left") || told.contains("quota exceeded"), "{filled:?}");
    Ok(filled.stdout.trim().parse::<u64>().with_context(|| format!("{filled:?}"))? >> 20)
}

async fn sizes(server: &Server, runtime: Option<&str>) -> Result<()> {
    let template = template(server, runtime, [("data", volume("/data", "48Mi"))]).await?;
    let sandbox = make(server, &template, &unique("size")).await?;
    let fits = fill(server, &sandbox.id, "/data/filler").await?;
    ensure!((24..=48).contains(&fits), "{fits} MiB fit into 48");
    root(
        server,
        &sandbox.id,
        "dd if=/dev/urandom of=/data/filler bs=1M count=512 2>/dev/null; sync; \
        dd if=/dev/urandom of=/var/tmp/more bs=1M count=8 && cat /var/tmp/more | wc -c",
    )
    .await?;
    ensure!(server.output(&sandbox.id, &["echo", "fine"]).await? == "fine");
    server.delete(&sandbox.id).await
}

async fn growth(server: &Server) -> Result<()> {
    let owner = unique("grow");
    for (size, expected) in [("32Mi", 14..=32), ("96Mi", 64..=96), ("32Mi", 64..=96)] {
        let template = template(server, None, [("data", volume("/data", size))]).await?;
        let sandbox = make(server, &template, &owner).await?;
        root(server, &sandbox.id, "echo x >>/data/rounds").await?;
        let fits = fill(server, &sandbox.id, "/data/filler").await?;
        ensure!(expected.contains(&fits), "{fits} MiB fit after {size} was asked for");
        server.delete(&sandbox.id).await?;
    }
    let template = template(server, None, [("data", volume("/data", "96Mi"))]).await?;
    let sandbox = make(server, &template, &owner).await?;
    ensure!(root(server, &sandbox.id, "cat /data/rounds").await? == "x\nx\nx");
    server.delete(&sandbox.id).await
}

/// Whoever is root inside may put a link where a volume goes. It leads where it would lead inside.
async fn links(server: &Server) -> Result<()> {
    let template = template(server, None, [("data", volume("/srv/deep/data", "64Mi"))]).await?;
    let sandbox = make(server, &template, &unique("link")).await?;
    let outside = server.data().join("outside");
    std::fs::create_dir(&outside)?;
    let handle = server.client()?.sandbox(&sandbox.id);
    for (target, expected) in [
        ("../../../../../../../..", "/data"),
        (&*outside.display().to_string(), ""),
        ("/proc/self/root/opt", ""),
    ] {
        root(
            server,
            &sandbox.id,
            &format!(
                "echo x >>/srv/deep/data/rounds; mv /srv/deep /srv/was$(date +%N); \
            ln -s {target} /srv/deep"
            ),
        )
        .await?;
        handle.stop().await?;
        let started = handle.start().await;
        if expected.is_empty() {
            ensure!(started.is_err(), "{target}: {started:?}");
            let now = handle.get().await?;
            ensure!(now.phase == Phase::Failed && now.reason.message.contains("/srv/deep/data"), "{now:?}");
            break;
        }
        ensure!(root(server, &sandbox.id, &format!("cat {expected}/rounds")).await? == "x");
    }
    ensure!(std::fs::read_dir(&outside)?.count() == 0, "something was made outside");
    std::fs::remove_dir(&outside)?;
    server.delete(&sandbox.id).await
}

async fn nested(server: &Server) -> Result<()> {
    let volumes = [
        ("inner", volume("/srv/outer/some/inner", "32Mi")),
        ("outer", volume("/srv/outer", "32Mi")),
        ("temp", volume("/tmp/deep", "32Mi")),
    ];
    let template = template(server, None, volumes).await?;
    let owner = unique("nested");
    for round in 0..2 {
        let sandbox = make(server, &template, &owner).await?;
        let line = format!(
            "echo {round} >>/srv/outer/note; echo {round} >>/srv/outer/some/inner/note; echo {round} >>/tmp/deep/note"
        );
        shell(server, &sandbox.id, &line).await?;
        server.client()?.sandbox(&sandbox.id).restart().await?;
        let expected = ["0\n0\n0", "0\n1\n0\n1\n0\n1"][round];
        let kept =
            shell(server, &sandbox.id, "cat /srv/outer/note /srv/outer/some/inner/note /tmp/deep/note")
                .await?;
        ensure!(kept == expected, "{kept}");
        server.delete(&sandbox.id).await?;
    }
    Ok(())
}

fn files_of_volumes(server: &Server) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for place in ["disk/volumes", "volumes"] {
        for entry in std::fs::read_dir(server.data().join(place))? {
            names.push(format!("{place}/{}", entry?.file_name().display()));
        }
    }
    names.sort();
    Ok(names)
}

/// One whose sandbox cannot start goes with it; one that was there before stays.
async fn failed(server: &Server) -> Result<()> {
    let before = files_of_volumes(server)?;
    let owner = unique("failed");
    let home = template(server, None, [("home", volume("/home/user", "64Mi"))]).await?;
    let sandbox = make(server, &home, &owner).await?;
    shell(server, &sandbox.id, "echo kept >note").await?;
    server.delete(&sandbox.id).await?;
    let with_home = files_of_volumes(server)?;
    ensure!(with_home.len() == before.len() + 2, "{with_home:?}");
    // Its place is a file, so the second volume cannot be mounted.
    let volumes = [("home", volume("/home/user", "64Mi")), ("bad", volume("/etc/passwd/x", "64Mi"))];
    let bad = template(server, None, volumes).await?;
    let refused = make(server, &bad, &owner).await;
    ensure!(refused.is_err(), "{refused:?}");
    ensure!(files_of_volumes(server)? == with_home, "{:?}", files_of_volumes(server)?);
    let left: Vec<_> = server.list().await?;
    for sandbox in left.iter().filter(|it| it.owner.as_ref() == Some(&owner)) {
        ensure!(sandbox.reason.message.contains("/etc/passwd/x"), "{sandbox:?}");
        server.delete(&sandbox.id).await?;
    }
    let image = TemplateSpec { image: "127.0.0.1:1/none".into(), ..spec([("new", volume("/new", "64Mi"))]) };
    let name = unique("t");
    server.client()?.put_template(&name, &image).await?;
    ensure!(make(server, &name, &owner).await.is_err());
    ensure!(files_of_volumes(server)? == with_home, "{:?}", files_of_volumes(server)?);
    server.clear().await?;
    let again = make(server, &home, &owner).await?;
    ensure!(shell(server, &again.id, "cat note").await? == "kept");
    server.delete(&again.id).await
}

async fn refused(server: &Server) -> Result<()> {
    let http = server.http()?;
    let template = template(server, None, [("home", volume("/home/user", "64Mi"))]).await?;
    let nobody = http.post("/api/v1/sandboxes", json!({"template": template})).await?;
    ensure!(nobody.refusal(400)? == "invalid" && nobody.body["field"] == "owner", "{nobody:?}");
    for (field, bad) in [
        ("volumes.home.path", json!({"home": {"path": "/proc/x"}})),
        ("volumes.home.size", json!({"home": {"path": "/x", "size": "many"}})),
        ("volumes.home.size", json!({"home": {"path": "/x", "size": "1Mi"}})),
        ("volumes.A", json!({"A": {"path": "/x"}})),
    ] {
        let body = json!({"image": "base", "volumes": bad});
        let answer = http.call(reqwest::Method::PUT, "/api/v1/templates/bad", body).await?;
        ensure!(answer.refusal(400)? == "invalid" && answer.body["field"] == field, "{answer:?}");
    }
    Ok(())
}

async fn succeeded(server: &mut Server) -> Result<()> {
    let template = template(server, None, [("home", volume("/home/user", "64Mi"))]).await?;
    let (owner, other) = (unique("survives"), unique("rests"));
    let (runs, rests) = (make(server, &template, &owner).await?, make(server, &template, &other).await?);
    shell(server, &runs.id, "echo kept >note").await?;
    shell(server, &rests.id, "echo kept too >note").await?;
    server.client()?.sandbox(&rests.id).stop().await?;
    server.kill()?;
    server.launch().await?;
    ensure!(shell(server, &runs.id, "cat note; echo more >>note").await? == "kept");
    for owner in [&owner, &other] {
        let ask = json!({"template": template, "owner": owner});
        ensure!(server.http()?.post("/api/v1/sandboxes", ask).await?.refusal(409)? == "in_use");
    }
    for (sandbox, owner, kept) in [(runs, owner, "kept\nmore"), (rests, other, "kept too")] {
        server.delete(&sandbox.id).await?;
        let again = make(server, &template, &owner).await?;
        ensure!(shell(server, &again.id, "cat note").await? == kept);
        server.delete(&again.id).await?;
    }
    Ok(())
}

/// After the server's death at any step, a volume is whole or not there, and what was whole before still is.
async fn killed(server: &mut Server) -> Result<()> {
    let home = template(server, None, [("home", volume("/home/user", "64Mi"))]).await?;
    let owner = unique("killed");
    for delay in (0..80).step_by(8) {
        let ask = json!({"template": home, "owner": owner, "disk": "64Mi"});
        let http = server.http()?;
        let asked = tokio::spawn(async move { http.post("/api/v1/sandboxes", ask).await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        server.kill()?;
        let _ = asked.await?;
        server.launch().await?;
        after_death(server, &home, &owner).await.with_context(|| format!("killed after {delay} ms"))?;
    }
    Ok(())
}

async fn after_death(server: &Server, template: &str, owner: &str) -> Result<()> {
    wait_until("nothing is half done", async || {
        Ok(server.list().await?.iter().all(|it| !matches!(it.phase, Phase::Creating | Phase::Terminating)))
    })
    .await?;
    let mine: Vec<_> =
        server.list().await?.into_iter().filter(|it| it.owner.as_deref() == Some(owner)).collect();
    let sandbox = match mine.into_iter().next() {
        Some(sandbox) => sandbox,
        None => make(server, template, owner).await?,
    };
    ensure!(sandbox.phase == Phase::Running, "{sandbox:?}");
    let top = shell(server, &sandbox.id, "stat -c %U . .bashrc; echo x >>rounds").await?;
    ensure!(top == "user\nuser", "{top}");
    server.delete(&sandbox.id).await
}
