//! One sandbox for each user at `/v1/sandbox/{userId}`, with plain calls, on real sandboxes. In place of the desktop stands
//! a template with two small web servers.

use anyhow::{Context, Result, ensure};
use atoll_client::api::{Lifecycle, Phase, TemplateSpec, UserSandbox, Volume};
use atoll_tests::{Options, Run, Server, http::Http, on_cluster::little, server::wait_until, unique};
use std::{collections::BTreeMap, time::Duration};

/// Everything, on a server that asks nobody for a key.
pub async fn all(run: &mut Run) -> Result<()> {
    let args = vec!["--no-auth".to_owned()];
    let mut server = Server::start(Options { args, ..Options::default() }).await?;
    server.client()?.put_template("desktop", &desktop()).await?;
    run.case("user_makes_uses_and_comes_back", comes_back(&server)).await;
    run.case("user_calls_at_once_make_one", at_once(&server)).await;
    run.case("user_moves_keep_files", moves(&server)).await;
    run.case("user_sandboxes_that_rest_are_woken", woken(&server)).await;
    run.case("user_volumes_go_when_asked", volumes_go(&server)).await;
    run.case("users_with_odd_names", odd_names(&server)).await;
    run.case("user_of_a_broken_template", broken(&server)).await;
    run.case("user_sandbox_that_is_terminated_keeps_volumes", terminated(&server)).await;
    run.case("user_command_line", command_line(&server)).await;
    let patience = Duration::from_secs(600);
    run.patient_case("user_survives_the_servers_death", patience, killed(&mut server)).await;
    run.case("user_nothing_is_left_behind", server.close()).await;
    Ok(())
}

fn desktop() -> TemplateSpec {
    let script = "cd /srv; echo vnc >vnc.html; echo api >api.html; \
        python3 -m http.server 6901 & exec python3 -m http.server 3000";
    let home = Volume { path: "/home/user".into(), size: Some("64Mi".into()) };
    TemplateSpec {
        image: "base".into(),
        start_command: Some(["sudo", "sh", "-c", script].map(str::to_owned).to_vec()),
        ports: BTreeMap::from([("vnc".into(), 6901), ("api".into(), 3000)]),
        volumes: BTreeMap::from([("home".into(), home)]),
        requests: little(),
        ..TemplateSpec::default()
    }
}

async fn post(http: &Http, path: &str, status: u16) -> Result<UserSandbox> {
    let body = http.post(path, serde_json::Value::Null).await?.expect(status)?;
    Ok(serde_json::from_value(body)?)
}

async fn shell(server: &Server, id: &str, line: &str) -> Result<String> {
    server.output(id, &["sh", "-c", line]).await
}

async fn comes_back(server: &Server) -> Result<()> {
    let (http, user) = (server.http()?, unique("alice"));
    let path = format!("/v1/sandbox/{user}");
    let first = post(&http, &path, 201).await?;
    ensure!((first.user_id.as_str(), first.phase) == (user.as_str(), Phase::Running), "{first:?}");
    ensure!(first.volumes["home"].path == "/home/user" && first.ports["vnc"] == 6901, "{first:?}");
    for (port, page) in [(6901, "vnc"), (3000, "api")] {
        let line = format!(
            "python3 -c 'from urllib.request import urlopen; print(urlopen(\"http://127.0.0.1:{port}/{page}.html\").read().decode())'"
        );
        wait_until("its port answers", async || {
            Ok(shell(server, &first.id, &line).await.is_ok_and(|it| it == page))
        })
        .await?;
    }
    shell(server, &first.id, "echo kept >note; echo gone >/var/tmp/note").await?;
    ensure!(post(&http, &path, 200).await?.id == first.id);
    http.delete(&path).await?.expect(204)?;
    // While the first is still being taken down.
    let second = post(&http, &path, 201).await?;
    ensure!(second.label == first.label, "{second:?}");
    ensure!(shell(server, &second.id, "cat note; test ! -e /var/tmp/note").await? == "kept");
    http.delete(&path).await?.expect(204)?;
    wait_until("it is gone", async || Ok(http.get(&path).await?.status == 404)).await?;
    ensure!(http.delete(&path).await?.refusal(404)? == "not_found");
    let kept = server.client()?.volumes(Some(&user)).await?;
    ensure!(kept.len() == 1 && kept[0].used_by.is_none() && kept[0].size == "64Mi", "{kept:?}");
    server.client()?.remove_volume(&user, "home").await?;
    ensure!(server.client()?.volumes(Some(&user)).await?.is_empty());
    Ok(())
}

async fn at_once(server: &Server) -> Result<()> {
    let (http, user) = (server.http()?, unique("many"));
    let path = format!("/v1/sandbox/{user}");
    for round in 0..3 {
        let calls = (0..6).map(|_| http.post(&path, serde_json::Value::Null));
        let answers = futures::future::try_join_all(calls).await?;
        let ids: Vec<_> = answers.iter().map(|it| it.body["id"].as_str().unwrap_or_default()).collect();
        ensure!(answers.iter().all(|it| it.status.is_success()), "{answers:#?}");
        ensure!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let theirs = server.list().await?.into_iter().filter(|it| it.owner.as_ref() == Some(&user)).count();
        ensure!(theirs == 1, "{theirs} sandboxes of one user");
        let rounds = shell(server, ids[0], "echo x >>rounds; wc -l <rounds").await?;
        ensure!(rounds == (round + 1).to_string(), "{rounds}");
        http.delete(&path).await?.expect(204)?;
    }
    Ok(())
}

async fn moves(server: &Server) -> Result<()> {
    let (http, user) = (server.http()?, unique("moves"));
    let path = format!("/v1/sandbox/{user}");
    let made = post(&http, &path, 201).await?;
    shell(server, &made.id, "echo home >note; echo root >/var/tmp/note").await?;
    for (action, phase) in [
        ("stop", Phase::Stopped),
        ("stop", Phase::Stopped),
        ("start", Phase::Running),
        ("restart", Phase::Running),
    ] {
        let moved = post(&http, &format!("{path}/{action}"), 200).await?;
        ensure!((moved.phase, &moved.id) == (phase, &made.id), "{action}: {moved:?}");
    }
    ensure!(shell(server, &made.id, "cat note").await? == "home");
    if server.cluster().is_none() {
        ensure!(shell(server, &made.id, "cat /var/tmp/note").await? == "root");
    }
    http.delete(&path).await?.expect(204)?;
    Ok(())
}

async fn woken(server: &Server) -> Result<()> {
    let (http, user) = (server.http()?, unique("rests"));
    let path = format!("/v1/sandbox/{user}");
    let made = post(&http, &path, 201).await?;
    let handle = server.client()?.sandbox(&made.id);
    handle.pause().await?;
    let calls = (0..4).map(|_| post(&http, &path, 200));
    ensure!(futures::future::try_join_all(calls).await?.iter().all(|it| it.phase == Phase::Running));
    handle.stop().await?;
    let calls = (0..4).map(|_| post(&http, &path, 200));
    ensure!(futures::future::try_join_all(calls).await?.iter().all(|it| it.phase == Phase::Running));
    handle.pause().await?;
    ensure!(post(&http, &format!("{path}/start"), 200).await?.phase == Phase::Running);
    http.delete(&path).await?.expect(204)?;
    Ok(())
}

async fn volumes_go(server: &Server) -> Result<()> {
    let (http, user) = (server.http()?, unique("goes"));
    let path = format!("/v1/sandbox/{user}");
    let made = post(&http, &path, 201).await?;
    shell(server, &made.id, "echo secret >note").await?;
    http.delete(&format!("{path}?volumes=delete")).await?.expect(204)?;
    ensure!(server.client()?.volumes(Some(&user)).await?.is_empty());
    let again = post(&http, &path, 201).await?;
    shell(server, &again.id, "test ! -e note").await?;
    if server.cluster().is_none() {
        ensure!(shell(server, &again.id, "stat -c %U . .bashrc").await? == "user\nuser");
    }
    // One that another sandbox has: nothing is done.
    let ask = serde_json::json!({"template": "desktop", "owner": user});
    ensure!(http.post("/api/v1/sandboxes", ask).await?.refusal(409)? == "in_use");
    http.delete(&format!("{path}?volumes=delete")).await?.expect(204)?;
    ensure!(http.get(&path).await?.status == 404);
    Ok(())
}

async fn odd_names(server: &Server) -> Result<()> {
    let http = server.http()?;
    let long = "%F0%9F%90%A2".repeat(75);
    let mut labels = std::collections::BTreeSet::new();
    for user in ["bob%40example.com", "Bob", "bob", "%E6%97%A5%E6%9C%AC", "b%2Fo%2Fb", &long] {
        let path = format!("/v1/sandbox/{user}");
        let made = post(&http, &path, 201).await?;
        ensure!(labels.insert(made.label.clone()) && made.label.len() <= 38, "{made:?}");
        shell(server, &made.id, "echo $HOME >note").await?;
        http.delete(&path).await?.expect(204)?;
        let again = post(&http, &path, 201).await?;
        ensure!(shell(server, &again.id, "cat note").await? == "/home/user");
        http.delete(&format!("{path}?volumes=delete")).await?.expect(204)?;
    }
    ensure!(http.post("/v1/sandbox/%00", serde_json::Value::Null).await?.refusal(400)? == "invalid");
    Ok(())
}

/// What cannot be made is told each time, leaves no volume, and is made once the template is mended.
async fn broken(server: &Server) -> Result<()> {
    let (http, user) = (server.http()?, unique("broken"));
    let path = format!("/v1/sandbox/{user}");
    let client = server.client()?;
    client.put_template("desktop", &TemplateSpec { image: "127.0.0.1:1/none".into(), ..desktop() }).await?;
    for _ in 0..2 {
        let refused = http.post(&path, serde_json::Value::Null).await?;
        ensure!(refused.status == 502 || refused.status == 400, "{refused:?}");
    }
    // A cluster's volumes are made while images are pulled; an empty one is there for the next attempt.
    ensure!(client.volumes(Some(&user)).await?.is_empty() || server.cluster().is_some());
    client.put_template("desktop", &desktop()).await?;
    post(&http, &path, 201).await?;
    http.delete(&format!("{path}?volumes=delete")).await?.expect(204)?;
    Ok(())
}

async fn terminated(server: &Server) -> Result<()> {
    let (http, user) = (server.http()?, unique("ends"));
    let path = format!("/v1/sandbox/{user}");
    let client = server.client()?;
    let lifecycle = Lifecycle { terminate_after: Some(1), ..Lifecycle::default() };
    client.put_template("desktop", &TemplateSpec { lifecycle, ..desktop() }).await?;
    let made = post(&http, &path, 201).await?;
    shell(server, &made.id, "echo kept >note").await?;
    post(&http, &format!("{path}/stop"), 200).await?;
    wait_until("it is terminated", async || Ok(http.get(&path).await?.status == 404)).await?;
    client.put_template("desktop", &desktop()).await?;
    let again = post(&http, &path, 201).await?;
    ensure!(shell(server, &again.id, "cat note").await? == "kept");
    http.delete(&path).await?.expect(204)?;
    Ok(())
}

async fn command_line(server: &Server) -> Result<()> {
    let (cli, user) = (server.cli()?, unique("dave"));
    let line = "echo kept >note";
    let done = cli.run(&["run", "desktop", "--owner", &user, "--", "sh", "-c", line]).await?;
    ensure!(done.code == 0, "{done:?}");
    let done = cli.run(&["run", "--owner", &user, "--template", "desktop", "--", "cat", "note"]).await?;
    ensure!((done.code, done.stdout.as_str()) == (0, "kept\n"), "{done:?}");
    let id = cli.output(&["create", "desktop", "--owner", &user, "--public"]).await?;
    let shown = cli.output(&["get", &id]).await?;
    ensure!(shown.contains(&user) && shown.contains("home at /home/user (64Mi)"), "{shown}");
    ensure!(cli.output(&["ls", "--owner", &user, "-q"]).await? == id);
    ensure!(cli.output(&["ls", "--owner", "nobody-here", "-q"]).await?.is_empty());
    let listed = cli.output(&["volumes", "ls", "--owner", &user]).await?;
    ensure!(listed.contains("home") && listed.contains(&id) && listed.contains("64Mi"), "{listed}");
    let refused = cli.run(&["volumes", "rm", &user, "home"]).await?;
    ensure!(refused.code == 1 && refused.stderr.contains(&id), "{refused:?}");
    server.delete(&id).await?;
    ensure!(cli.output(&["volumes", "rm", &user, "home"]).await? == "home");
    let gone = cli.run(&["volumes", "rm", &user, "home"]).await?;
    ensure!(gone.code == 1 && gone.stderr.contains("does not exist"), "{gone:?}");
    Ok(())
}

/// The server dies in the middle of the call: the next one finishes or undoes it, and there is one sandbox.
async fn killed(server: &mut Server) -> Result<()> {
    let user = unique("killed");
    let path = format!("/v1/sandbox/{user}");
    for (round, delay) in (0..60).step_by(12).enumerate() {
        let (http, called) = (server.http()?, path.clone());
        let asked = tokio::spawn(async move { http.post(&called, serde_json::Value::Null).await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        server.kill()?;
        let _ = asked.await?;
        server.launch().await?;
        let http = server.http()?;
        let answers =
            futures::future::try_join_all((0..2).map(|_| http.post(&path, serde_json::Value::Null))).await?;
        ensure!(answers.iter().all(|it| it.status.is_success()), "after {delay} ms: {answers:#?}");
        let id = answers[0].body["id"].as_str().context("no id")?;
        let rounds = shell(server, id, "echo x >>rounds; wc -l <rounds").await?;
        ensure!(rounds == (round + 1).to_string(), "after {delay} ms: {rounds}");
        http.delete(&path).await?.expect(204)?;
    }
    Ok(())
}
