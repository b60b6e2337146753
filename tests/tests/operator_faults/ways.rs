//! Ways to run that are not the usual one.

use anyhow::{Context, Result, ensure};
use atoll_tests::{
    Skip,
    cluster::{Operator, Served},
    http::Http,
    stage::{NS, Stage, home, pod_of},
};
use serde_json::{Value, json};

const DOMAIN: &str = "sandbox.test";

pub async fn resize(stage: &Stage) -> Result<()> {
    let pod = stage.run(NS, "resized", json!({})).await?;
    let request = || -> Result<Value> {
        let pod = stage.cluster.get(NS, "pod", &pod)?;
        Ok(pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"].clone())
    };
    ensure!(request()? == "199m", "{}", request()?);
    for (state, cpu) in [("Paused", "10m"), ("Running", "199m")] {
        stage.want("resized", state)?;
        stage.cluster.phase(NS, "resized", state).await?;
        let told = || {
            let status = stage.cluster.get(NS, "sandbox", "resized")?["status"].clone();
            let told = condition(&status, "Resized");
            Ok((request()? == cpu && told["status"] == "True").then_some(()))
        };
        stage.cluster.until(&format!("the request of one that is {state} to be {cpu}"), told).await?;
    }
    let restarts = &stage.cluster.get(NS, "pod", &pod)?["status"]["containerStatuses"][0]["restartCount"];
    ensure!(restarts == 0, "it was started again");
    stage.delete(NS, "resized")
}

pub fn condition(status: &Value, kind: &str) -> Value {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|it| it["type"] == kind).unwrap_or_default()
}

/// By what the cluster tells, not by asking again and again.
pub async fn goes_on(stage: &Stage) -> Result<()> {
    let waits = |name: &str, spec: Value| stage.cluster.apply(&stage.sandbox(NS, name, spec));
    waits("early", json!({ "image": null, "template": "late" }))?;
    let early = stage.cluster.phase(NS, "early", "Failed").await?;
    ensure!(early["status"]["reason"]["code"] == "template_not_found", "{}", early["status"]);
    let image = format!("{}-late:1", stage.busybox.trim_end_matches(":1"));
    waits("unpushed", json!({ "image": image }))?;
    let unpushed = stage.cluster.phase(NS, "unpushed", "Failed").await?;
    ensure!(unpushed["status"]["reason"]["code"] == "image_not_found", "{}", unpushed["status"]);
    stage.cluster.copy_image(&stage.busybox, &image, &[])?;
    stage.cluster.apply(&stage.template("late", json!({})))?;
    stage.cluster.phase(NS, "early", "Running").await?;
    // Of the registry alone nothing is heard: it is asked again after a while.
    stage.cluster.phase(NS, "unpushed", "Running").await?;
    stage.delete(NS, "unpushed")?;
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "tiny", "namespace": NS },
        "spec": { "hard": { "pods": "1" } } });
    stage.cluster.apply(&quota)?;
    let counted =
        || Ok(stage.cluster.get(NS, "resourcequota", "tiny")?["status"]["used"]["pods"].as_str().map(drop));
    stage.cluster.until("the quota to be counted", counted).await?;
    waits("second", json!({}))?;
    stage.cluster.phase(NS, "second", "Failed").await?;
    stage.delete(NS, "early")?;
    stage.cluster.phase(NS, "second", "Running").await?;
    stage.cluster.kubectl(&["-n", NS, "delete", "resourcequota/tiny", "sandboxtemplate/late"])?;
    stage.delete(NS, "second")
}

pub async fn two_of_one_user(stage: &Stage) -> Result<()> {
    let with = |volume: &str| {
        let volumes = json!({ volume: { "path": "/home/user", "size": "16Mi" } });
        json!({ "owner": "twice", "ports": { "web": 80 }, "volumes": volumes })
    };
    let first = stage.run(NS, "one", with("home")).await?;
    let second = stage.run(NS, "two", with("work")).await?;
    stage.inside(&first, "echo one >/home/user/file")?;
    stage.inside(&second, "test ! -e /home/user/file && echo two >/home/user/file")?;
    let hosts = |name| -> Result<Value> {
        Ok(stage.cluster.get(NS, "sandbox", name)?["status"]["hosts"]["web"].clone())
    };
    ensure!(hosts("one")? == "twice-web.sandbox.test" && hosts("two")? == hosts("one")?);
    stage.cluster.apply(&stage.sandbox(NS, "three", with("home")))?;
    let reason = stage.cluster.phase(NS, "three", "Failed").await?["status"]["reason"].clone();
    let id = first.trim_end_matches("-0");
    let named = reason["message"].as_str().is_some_and(|it| it.contains(id));
    ensure!(reason["code"] == "volume_in_use" && named, "{reason}");
    stage.delete(NS, "one")?;
    let third = pod_of(&stage.cluster.phase(NS, "three", "Running").await?);
    ensure!(stage.inside(&third, "cat /home/user/file")? == "one");
    ["two", "three"].iter().try_for_each(|name| stage.delete(NS, name))?;
    stage.delete_claims()
}

/// Commands, files and a port, through the server, as callers use them.
async fn is_usable(served: &Served, id: &str) -> Result<()> {
    let line = ["exec", id, "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"];
    let done = served.cli.run(&line).await?;
    ensure!((done.code, done.stdout.as_str(), done.stderr.as_str()) == (7, "out\n", "err\n"), "{done:?}");
    let folder = tempfile::tempdir()?;
    let (sent, back) = (folder.path().join("sent"), folder.path().join("back"));
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&sent, &bytes)?;
    let inside = format!("{id}:/tmp/file");
    served.cli.output(&["cp", &sent.to_string_lossy(), &inside]).await?;
    served.cli.output(&["cp", &inside, &back.to_string_lossy()]).await?;
    ensure!(std::fs::read(&back)? == bytes, "files change on their way");
    let serve =
        "mkdir -p /tmp/www && echo served >/tmp/www/index.html && httpd -h /tmp/www -p 127.0.0.1:8000";
    served.cli.output(&["exec", id, "--", "/bin/sh", "-c", serve]).await?;
    let http = Http::new(&format!("http://127.0.0.1:{}", served.port), None)?;
    let request = http.request(reqwest::Method::GET, "/").header("host", format!("8000-{id}.{DOMAIN}"));
    let text = request.send().await?.text().await?;
    ensure!(text == "served\n", "{text}");
    Ok(())
}

async fn rests_and_wakes(served: &Served, id: &str) -> Result<()> {
    let ticks = "(while :; do echo >>/tmp/ticks; sleep 0.05; done) >/dev/null 2>&1 &";
    served.cli.output(&["exec", id, "--", "/bin/sh", "-c", ticks]).await?;
    served.cli.output(&["pause", id]).await?;
    let resting = served.cli.json(&["get", id]).await?;
    ensure!(resting["phase"] == "paused", "{resting}");
    served.cli.output(&["exec", id, "--", "/bin/true"]).await.context("a command wakes it")?;
    served.cli.output(&["stop", id]).await?;
    served.cli.output(&["start", id]).await?;
    served.cli.output(&["exec", id, "--", "/bin/true"]).await.map(drop)
}

/// Without root: gVisor cannot enter the user namespace that the node makes for a pod.
pub async fn gvisor(stage: &Stage) -> Result<()> {
    if stage.cluster.kubectl(&["get", "runtimeclass", "gvisor"]).is_err() {
        return Err(Skip("the cluster has no RuntimeClass gvisor".into()).into());
    }
    let spec = json!({ "runtime": "gvisor", "sudo": false, "memory": "256Mi" });
    stage.cluster.apply(&stage.template("walled", spec))?;
    let served = stage.cluster.serve(DOMAIN).await?;
    let id = served.cli.output(&["create", "walled", "-o", "name"]).await?;
    let kernel = served.cli.output(&["exec", &id, "--", "dmesg"]).await?;
    ensure!(kernel.contains("gVisor"), "{kernel}");
    is_usable(&served, &id).await?;
    rests_and_wakes(&served, &id).await?;
    served.cli.output(&["rm", &id]).await?;
    // With root, its node cannot start it, and says so in events alone.
    stage.cluster.apply(&stage.sandbox(
        NS,
        "rooted",
        json!({ "image": null, "template": "walled", "sudo": true }),
    ))?;
    let reason = stage.cluster.phase(NS, "rooted", "Failed").await?["status"]["reason"].clone();
    let told = reason["message"].as_str().is_some_and(|it| it.starts_with("FailedCreatePodSandBox"));
    ensure!(reason["code"] == "start_failed" && told, "{reason}");
    stage.delete(NS, "rooted")?;
    stage.cluster.until("it to be gone", || Ok(stage.left()?.is_empty().then_some(()))).await?;
    stage.cluster.kubectl(&["-n", NS, "delete", "sandboxtemplate", "walled"]).map(drop)
}

pub async fn init_container(stage: &Stage, operator: &mut Operator) -> Result<()> {
    operator.kill()?;
    let installer = stage.cluster.push_installer()?;
    let way = ["--domain", DOMAIN, "--agent-injection", "init-container"];
    *operator = stage.cluster.operator(&installer, "one", &way)?;
    let served = stage.cluster.serve(DOMAIN).await?;
    let pod = stage.run(NS, "installed", json!({ "owner": "init", "volumes": home("16Mi") })).await?;
    let made = stage.cluster.get(NS, "pod", &pod)?["spec"].clone();
    ensure!(made["initContainers"][0]["name"] == "agent", "{made}");
    ensure!(stage.inside(&pod, "touch /.atoll/atoll-agent").is_err(), "the agent can be written to");
    let id = pod.trim_end_matches("-0");
    is_usable(&served, id).await?;
    rests_and_wakes(&served, id).await?;
    stage.delete(NS, "installed")?;
    let strict = [("atoll.dev/tenant", "init"), ("atoll.dev/strict", "true")];
    stage.cluster.namespace("tenant-init", &strict)?;
    stage
        .run("tenant-init", "restricted", json!({}))
        .await
        .context("the init container conforms to restricted")?;
    stage.delete("tenant-init", "restricted")?;
    stage.cluster.kubectl(&["delete", "namespace", "tenant-init", "--timeout=60s"])?;
    ensure!(stage.left()?.is_empty(), "{:?}", stage.left()?);
    stage.delete_claims()?;
    operator.kill()?;
    *operator = stage.operator("one", &[])?;
    Ok(())
}
