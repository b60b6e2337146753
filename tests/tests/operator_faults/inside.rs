//! Code inside a sandbox that takes all it can get: what becomes of it, of a neighbour on the same node, and of what is
//! told.

use anyhow::{Context, Result, ensure};
use atoll_tests::stage::{NS, Stage};
use serde_json::{Value, json};

/// One that takes, and a neighbour on its node.
async fn pair(stage: &Stage, spec: Value) -> Result<(String, String)> {
    stage.cluster.kubectl(&["cordon", "node2"])?;
    let made = async {
        let hog = stage.run(NS, "hog", spec).await?;
        Ok::<_, anyhow::Error>((hog, stage.run(NS, "neighbour", json!({})).await?))
    };
    let made = made.await;
    stage.cluster.kubectl(&["uncordon", "node2"])?;
    made
}

/// The neighbour works, the node is well, and both can go.
fn nobody_is_hurt(stage: &Stage, neighbour: &str) -> Result<()> {
    ensure!(stage.inside(neighbour, "echo well")? == "well");
    let node = stage.cluster.get("default", "node", "node1")?;
    let conditions = node["status"]["conditions"].as_array().context("no conditions")?;
    for condition in conditions {
        let well = if condition["type"] == "Ready" { "True" } else { "False" };
        ensure!(condition["status"] == well, "{condition}");
    }
    Ok(())
}

fn status(stage: &Stage) -> Result<Value> {
    Ok(stage.cluster.get(NS, "sandbox", "hog")?["status"].clone())
}

fn gone(stage: &Stage) -> Result<()> {
    ["hog", "neighbour"].iter().try_for_each(|name| stage.delete(NS, name))
}

/// As the node counts them: `pids.current` and `pids.max` of the pod.
fn processes(stage: &Stage, pod: &str) -> Result<(u64, u64)> {
    let uid = stage.cluster.get(NS, "pod", pod)?["metadata"]["uid"].clone();
    let node =
        std::path::Path::new("/sys/fs/cgroup/pids").join(stage.cluster.var("ATOLL_CLUSTER")?).join("node1");
    let group = node.join("kubepods/burstable").join(format!("pod{}", uid.as_str().unwrap_or_default()));
    let number = |file: &str| -> Result<u64> {
        let text = std::fs::read_to_string(group.join(file)).with_context(|| format!("{group:?}/{file}"))?;
        Ok(text.trim().parse()?)
    };
    Ok((number("pids.current")?, number("pids.max")?))
}

pub async fn fork_bomb(stage: &Stage) -> Result<()> {
    let bomb = "bomb() { bomb | bomb & }; while :; do bomb; sleep 1; done";
    let (hog, neighbour) = pair(stage, json!({ "memory": "512Mi" })).await?;
    let served = stage.cluster.serve("sandbox.test").await?;
    served.cli.output(&["exec", "--detach", &hog, "--", "/bin/sh", "-c", bomb]).await?;
    let full = || {
        let (now, most) = processes(stage, &hog)?;
        Ok((now + 8 >= most).then_some(()))
    };
    stage.cluster.until("the sandbox to be full of processes", full).await?;
    nobody_is_hurt(stage, &neighbour)?;
    let told = status(stage)?;
    ensure!(told["phase"] == "Running", "{told}");
    gone(stage)
}

/// The kernel takes the command that asked for too much, and leaves the sandbox.
pub async fn memory(stage: &Stage) -> Result<()> {
    let (hog, neighbour) = pair(stage, json!({})).await?;
    let served = stage.cluster.serve("sandbox.test").await?;
    let done = served.cli.run(&["exec", &hog, "--", "/bin/sh", "-c", "tail /dev/zero"]).await?;
    ensure!(done.code == 137, "{done:?}");
    let many = "for n in 1 2 3 4 5 6 7 8; do tail /dev/zero & done; wait";
    served.cli.run(&["exec", &hog, "--", "/bin/sh", "-c", many]).await?;
    served.cli.output(&["exec", &hog, "--", "/bin/true"]).await.context("the sandbox is there")?;
    nobody_is_hurt(stage, &neighbour)?;
    let pod = stage.cluster.get(NS, "pod", &hog)?;
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", pod["status"]);
    let told = status(stage)?;
    ensure!(told["phase"] == "Running" && told["reason"]["message"] == "its agent answers", "{told}");
    gone(stage)
}

/// The node takes away what writes more than it may; another begins, and its history says why.
pub async fn disk(stage: &Stage) -> Result<()> {
    let (hog, neighbour) = pair(stage, json!({ "disk": "16Mi" })).await?;
    let first = stage.cluster.get(NS, "pod", &hog)?["metadata"]["uid"].clone();
    stage.inside(&hog, "dd if=/dev/zero of=/fill bs=1M count=64 2>/dev/null")?;
    let another = || {
        let pod = stage.cluster.get(NS, "pod", &hog)?;
        Ok((pod["metadata"]["uid"] != first).then_some(()))
    };
    stage.cluster.until("the node to end it", another).await?;
    let told = stage.cluster.phase(NS, "hog", "Running").await?["status"].clone();
    let history = told["history"].as_array().context("no history")?;
    let says = |it: &&Value| it["reason"]["code"] == "evicted";
    let evicted = history.iter().find(says).with_context(|| format!("{told}"))?["reason"]["message"].clone();
    ensure!(evicted.as_str().is_some_and(|it| it.contains("ephemeral")), "{evicted}");
    let events =
        stage.cluster.kubectl(&["-n", NS, "get", "events", "--field-selector=involvedObject.name=hog"])?;
    ensure!(events.contains("Evicted"), "{events}");
    ensure!(stage.inside(&hog, "test ! -e /fill && echo fresh")? == "fresh");
    nobody_is_hurt(stage, &neighbour)?;
    gone(stage)
}

pub async fn cpu(stage: &Stage) -> Result<()> {
    let spin = "for n in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait";
    let (hog, neighbour) = pair(stage, json!({ "startCommand": ["/bin/sh", "-c", spin] })).await?;
    let held = || {
        let stat = stage
            .inside(&hog, "cat /sys/fs/cgroup/cpu/cpu.stat /sys/fs/cgroup/cpu.stat 2>/dev/null; true")?;
        let times = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok());
        Ok(times.filter(|times| *times > 0).map(drop))
    };
    stage.cluster.until("the node to hold it back", held).await?;
    nobody_is_hurt(stage, &neighbour)?;
    let told = status(stage)?;
    ensure!(told["phase"] == "Running", "{told}");
    gone(stage)
}
