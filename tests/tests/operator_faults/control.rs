//! A control plane that stalls or dies while sandboxes are made and removed.

use anyhow::Result;
use atoll_tests::{
    cluster::Operator,
    stage::{NS, Stage, home},
};
use serde_json::json;

const MANY: usize = 4;

fn names() -> Vec<String> {
    (0..MANY).map(|n| format!("storm-{n}")).collect()
}

/// Asks for all of them; what is not taken while the cluster is away is asked for again.
async fn make(stage: &Stage) -> Result<()> {
    for (n, name) in names().iter().enumerate() {
        let spec = if n % 2 == 0 { json!({}) } else { json!({ "owner": name, "volumes": home("16Mi") }) };
        let object = stage.sandbox(NS, name, spec);
        stage.cluster.until("the object to be taken", || stage.cluster.apply(&object).map(Some)).await?;
    }
    Ok(())
}

async fn unmake(stage: &Stage) -> Result<()> {
    for name in names() {
        let line = ["-n", NS, "delete", "sandbox", &name, "--wait=false", "--ignore-not-found"];
        stage.cluster.until("the deletion to be taken", || stage.cluster.kubectl(&line).map(Some)).await?;
    }
    Ok(())
}

async fn all_run(stage: &Stage) -> Result<()> {
    for name in names() {
        stage.cluster.phase(NS, &name, "Running").await?;
    }
    Ok(())
}

async fn nothing_leaks(stage: &Stage) -> Result<()> {
    stage.cluster.until("everything to be gone", || Ok(stage.left()?.is_empty().then_some(()))).await?;
    let claims = stage.cluster.list(NS, "pvc")?.len();
    anyhow::ensure!(claims == MANY / 2, "{claims} claims");
    stage.delete_claims()
}

fn control(stage: &Stage, action: &str, component: &str) -> Result<()> {
    stage.cluster.tool("control", &[action, component]).map(drop)
}

/// Nothing is answered for so long that the operator gives up its lead; it takes it again.
pub async fn etcd(stage: &Stage, operator: &Operator) -> Result<()> {
    let heard = |words: &str| Ok::<_, anyhow::Error>(operator.log()?.matches(words).count());
    let (lost, leads) = (heard("another replica leads now")?, heard("INFO leading")?);
    make(stage).await?;
    control(stage, "pause", "etcd")?;
    let gives_up = || Ok((heard("another replica leads now")? > lost).then_some(()));
    let waited = stage.cluster.until("the operator to give up", gives_up).await;
    control(stage, "resume", "etcd")?;
    waited?;
    let again = || Ok((heard("INFO leading")? > leads).then_some(()));
    stage.cluster.until("the operator to lead again", again).await?;
    all_run(stage).await?;
    unmake(stage).await?;
    control(stage, "pause", "etcd")?;
    let trouble = heard("the lease cannot be renewed")?;
    let hears = || Ok((heard("the lease cannot be renewed")? > trouble).then_some(()));
    let waited = stage.cluster.until("the operator to hear nothing", hears).await;
    control(stage, "resume", "etcd")?;
    waited?;
    nothing_leaks(stage).await
}

pub async fn api_server(stage: &Stage) -> Result<()> {
    make(stage).await?;
    control(stage, "kill", "apiserver")?;
    control(stage, "start", "apiserver")?;
    all_run(stage).await?;
    unmake(stage).await?;
    control(stage, "kill", "apiserver")?;
    control(stage, "start", "apiserver")?;
    nothing_leaks(stage).await
}

/// A new API server comes up before a store that does not answer.
pub async fn both(stage: &Stage) -> Result<()> {
    make(stage).await?;
    control(stage, "kill", "apiserver")?;
    control(stage, "pause", "etcd")?;
    control(stage, "start", "apiserver")?;
    let silent = stage.cluster.kubectl_fails(&["--request-timeout=2s", "get", "nodes"]);
    control(stage, "resume", "etcd")?;
    silent?;
    all_run(stage).await?;
    control(stage, "pause", "etcd")?;
    control(stage, "kill", "apiserver")?;
    control(stage, "resume", "etcd")?;
    control(stage, "start", "apiserver")?;
    unmake(stage).await?;
    nothing_leaks(stage).await
}
