//! A node that dies with sandboxes on it, and one that only cannot be reached.

use anyhow::{Context, Result, ensure};
use atoll_tests::stage::{NS, Stage, home};
use serde_json::{Value, json};

use crate::ways::condition;

const AWAY: &str = "node.kubernetes.io/out-of-service";

fn status(stage: &Stage, name: &str) -> Result<Value> {
    Ok(stage.cluster.get(NS, "sandbox", name)?["status"].clone())
}

/// What is told of a sandbox whose node is silent.
async fn told_as_lost(stage: &Stage, name: &str, node: &str) -> Result<()> {
    let status = stage.cluster.phase(NS, name, "Failed").await?["status"].clone();
    let message = status["reason"]["message"].as_str().unwrap_or_default();
    ensure!(status["reason"]["code"] == "node_lost" && message.contains(node), "{status}");
    let ready = condition(&status, "Ready");
    ensure!(ready["status"] == "False" && ready["reason"] == "NodeLost", "{ready}");
    let field = format!("--field-selector=involvedObject.name={name}");
    let events = stage.cluster.kubectl(&["-n", NS, "get", "events", &field])?;
    ensure!(events.contains("NodeLost"), "{events}");
    Ok(())
}

/// One of each kind, on one node; gives that and the pods.
async fn on_one_node(stage: &Stage) -> Result<(&'static str, String, String)> {
    stage.cluster.kubectl(&["cordon", "node1"])?;
    let made = async {
        let keeps = stage.run(NS, "keeps", json!({ "owner": "lost", "volumes": home("16Mi") })).await?;
        let bare = stage.run(NS, "bare", json!({})).await?;
        stage.run(NS, "going", json!({})).await?;
        Ok::<_, anyhow::Error>((keeps, bare))
    };
    let made = made.await;
    stage.cluster.kubectl(&["uncordon", "node1"])?;
    let (keeps, bare) = made?;
    Ok(("node2", keeps, bare))
}

fn ready(stage: &Stage, node: &str) -> Result<Option<()>> {
    let seen = stage.cluster.get("default", "node", node)?;
    Ok((condition(&seen["status"], "Ready")["status"] == "True").then_some(()))
}

pub async fn lost(stage: &Stage) -> Result<()> {
    let (node, keeps, bare) = on_one_node(stage).await?;
    stage.inside(&keeps, "echo precious >/home/user/file; sync")?;
    stage.inside(&bare, "touch /mine")?;
    stage.cluster.tool("node", &["stop", node])?;
    let went = without_it(stage, node, &keeps, &bare).await;
    stage.cluster.tool("node", &["start", node])?;
    stage.cluster.until("the node to be back", || ready(stage, node)).await?;
    let _ = stage.cluster.kubectl(&["taint", "node", node, &format!("{AWAY}-")]);
    went?;
    let pods = stage.cluster.list(NS, "pods")?;
    ensure!(pods.len() == 2 && pods.iter().all(|pod| pod["spec"]["nodeName"] != node), "{pods:?}");
    ensure!(stage.inside(&keeps, "cat /home/user/file")? == "precious");
    ["keeps", "bare"].iter().try_for_each(|name| stage.delete(NS, name))?;
    ensure!(stage.left()?.is_empty(), "{:?}", stage.left()?);
    stage.delete_claims()
}

async fn without_it(stage: &Stage, node: &str, keeps: &str, bare: &str) -> Result<()> {
    for name in ["keeps", "bare"] {
        told_as_lost(stage, name, node).await?;
    }
    stage.cluster.kubectl(&["-n", NS, "delete", "sandbox", "going", "--wait=false"])?;
    let goes = || {
        let status = status(stage, "going")?;
        Ok((status["phase"] == "Terminating" && status["reason"]["code"] == "node_lost").then_some(()))
    };
    stage.cluster.until("the deletion to say what it waits for", goes).await?;
    stage.cluster.kubectl(&["taint", "node", node, &format!("{AWAY}=nodeshutdown:NoExecute")])?;
    for name in ["keeps", "bare"] {
        let moved = || {
            let status = status(stage, name)?;
            Ok((status["phase"] == "Running" && status["node"] == "node1").then_some(()))
        };
        stage.cluster.until(&format!("{name} to run on the other node"), moved).await?;
    }
    ensure!(stage.inside(keeps, "cat /home/user/file")? == "precious");
    ensure!(stage.inside(bare, "test ! -e /mine && echo fresh")? == "fresh");
    let gone = || Ok(stage.cluster.get(NS, "sandbox", "going").is_err().then_some(()));
    stage.cluster.until("the deleted one to be gone", gone).await
}

/// What runs there runs on, and is the same afterwards.
pub async fn cut(stage: &Stage) -> Result<()> {
    let ticks = json!(["/bin/sh", "-c", "while :; do echo >>/ticks; sleep 0.1; done"]);
    let pod = stage.run(NS, "runs", json!({ "startCommand": ticks })).await?;
    let before = status(stage, "runs")?;
    let node = before["node"].as_str().context("no node")?.to_owned();
    let uid = || -> Result<Value> { Ok(stage.cluster.get(NS, "pod", &pod)?["metadata"]["uid"].clone()) };
    let first = uid()?;
    stage.cluster.tool("node", &["cut", &node])?;
    let told = told_as_lost(stage, "runs", &node).await;
    stage.cluster.tool("node", &["mend", &node])?;
    told?;
    let after = stage.cluster.phase(NS, "runs", "Running").await?["status"].clone();
    ensure!(uid()? == first && after["address"] == before["address"], "{after}");
    let passed = || Ok((stage.inside(&pod, "wc -l </ticks")?.trim().parse::<u64>()? > 100).then_some(()));
    stage.cluster.until("its processes to have run on", passed).await?;
    stage.cluster.until("the node to be back", || ready(stage, &node)).await?;
    stage.delete(NS, "runs")
}
