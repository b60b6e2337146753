//! The figures of sandboxes on a cluster, each beside a bare pod's of the same image in the same run: how long until ready
//! and where that goes, what is written to the API server, how far it is through all doors, and a crowd.

mod crowd;
mod doors;
mod stages;
mod writes;

use anyhow::{Context, Result};
use atoll_client::Client;
use atoll_proto::api::{CreateSandbox, Requests};
use atoll_tests::{
    Server, host,
    on_cluster::little,
    server::{IMAGE, wait_until},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client as Kube, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use std::time::Instant;

use crate::table::Table;
use stages::{Seen, Stage};

/// The tenant's namespace in which everything happens.
const NAMESPACE: &str = "tenant-default";
/// Sandboxes and bare pods, by turns.
const SAMPLES: usize = 20;

/// What is measured, and through what.
struct Bench {
    server: Server,
    client: Client,
    kube: Kube,
}

/// Measures everything.
pub async fn measure(table: &mut Table) -> Result<()> {
    let server = doors::serve().await?;
    let (client, kube) = (server.client()?, connect(&server).await?);
    let bench = Bench { server, client, kube };
    one_by_one(&bench, table).await?;
    doors::measure(&bench, table).await?;
    crowd::measure(&bench, table).await?;
    memory(&bench, table)?;
    bench.server.close().await
}

async fn connect(server: &Server) -> Result<Kube> {
    let path = server.cluster().context("no cluster")?.var("KUBECONFIG")?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?;
    Ok(Kube::try_from(config)?)
}

fn plain() -> CreateSandbox {
    let image = Some(IMAGE.to_owned());
    CreateSandbox { image, pause_after: Some(0), requests: little(), ..CreateSandbox::default() }
}

impl Bench {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.kube.clone(), NAMESPACE)
    }

    /// A pod of the same image and size, that does nothing.
    fn bare(&self, name: &str) -> Result<Pod> {
        let registry = self.server.cluster().context("no cluster")?.var("ATOLL_CLUSTER_REGISTRY")?;
        let Requests { cpu, memory } = little();
        Ok(serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "bench": "bare" } },
            "spec": {
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "hostUsers": false,
                "containers": [{ "name": "main", "image": format!("{registry}/{IMAGE}"), "command": ["sleep", "3600"],
                    "resources": { "requests": { "cpu": cpu, "memory": memory } } }],
            },
        }))?)
    }
}

/// One sandbox and one bare pod after the other, and what each wrote.
async fn one_by_one(bench: &Bench, table: &mut Table) -> Result<()> {
    let seen = Seen::default();
    let _watch = stages::watch(bench, &seen).await?;
    // The first ones pay for what nodes keep afterwards.
    for number in 0..4 {
        sandbox(bench, &seen).await?;
        bare(bench, &format!("warm-{number}"), &seen).await?;
    }
    let before = writes::count(bench)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..SAMPLES {
        ours.push(sandbox(bench, &seen).await?);
        theirs.push(bare(bench, &format!("bare-{number}"), &seen).await?);
    }
    let made = stages::until(&seen, &ours, Stage::Answered);
    let pods = stages::until(&seen, &theirs, Stage::Ready);
    table.add_times("sandbox: create -> answer, agent ready", &made, "1.15 x bare pod");
    table.add_times("bare pod: create -> Ready", &pods, "");
    let ratio = made.percentile(50).zip(pods.percentile(50)).map_or(0.0, |(ours, bare)| ours / bare);
    table.add("sandbox / bare pod, by p50", format!("{ratio:.2}"), "", "");
    stages::tell("sandbox", &seen, &ours, table);
    stages::tell("bare pod", &seen, &theirs, table);
    writes::tell(bench, before.as_ref(), SAMPLES, table)
}

/// Its name, and when it was asked for.
type Asked = (String, Instant);

async fn sandbox(bench: &Bench, seen: &Seen) -> Result<Asked> {
    let asked = Instant::now();
    let made = bench.client.sandboxes().create(&plain()).await?;
    seen.reached(&made.id, Stage::Answered);
    bench.server.delete(&made.id).await?;
    Ok((made.id, asked))
}

async fn bare(bench: &Bench, name: &str, seen: &Seen) -> Result<Asked> {
    let (pods, asked) = (bench.pods(), Instant::now());
    pods.create(&PostParams::default(), &bench.bare(name)?).await?;
    wait_until("the bare pod is ready", async || Ok(seen.at(name, Stage::Ready).is_some())).await?;
    pods.delete(name, &DeleteParams::default()).await?;
    wait_until("the bare pod is gone", async || Ok(pods.get_opt(name).await?.is_none())).await?;
    Ok((name.to_owned(), asked))
}

fn memory(bench: &Bench, table: &mut Table) -> Result<()> {
    let of = |pid: Option<u32>| host::resident(pid.context("it does not run")?);
    table.add(
        "server's resident memory then",
        mib(of(bench.server.pid())?),
        "",
        "with a watch of everything",
    );
    table.add("operator's resident memory then", mib(of(bench.server.operator())?), "", "");
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
