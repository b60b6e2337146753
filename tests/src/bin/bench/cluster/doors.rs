//! How far it is to a sandbox through each door: the server, the gateway, and Traefik in front of both.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::ExecRequest;
use atoll_tests::{Cluster, Options, Server, on_cluster::OnCluster, server::wait_until, stats::Times};
use serde_json::json;
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use super::{Bench, plain};
use crate::table::Table;

/// So often.
const SAMPLES: usize = 200;
/// A port inside on which a small server listens.
const PORT: u16 = 8000;

/// A server that Traefik reaches.
pub async fn serve() -> Result<Server> {
    let ground = OnCluster::open()?;
    let host: IpAddr = ground.cluster().var("ATOLL_CLUSTER_HOST")?.parse()?;
    let listen = TcpListener::bind(SocketAddr::new(host, 0))?.local_addr()?;
    let args = vec!["--insecure-listen".to_owned()];
    Server::start(Options { on_cluster: true, listen: Some(listen), args, ..Options::default() }).await
}

/// Measures all.
pub async fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    let cluster = bench.server.cluster().context("no cluster")?;
    lead(cluster, bench.server.address())?;
    let traefik = format!("http://{}", cluster.var("ATOLL_CLUSTER_TRAEFIK")?);
    let mut ask = plain();
    ask.start_command =
        Some(["python3", "-m", "http.server", "8000", "--directory", "/etc"].map(str::to_owned).to_vec());
    let id = bench.client.sandboxes().create(&ask).await?.id;
    let key = bench.server.key()?.unwrap_or_default();
    let door = |url: &str, host: String| Door { url: url.to_owned(), host, key: key.clone(), id: id.clone() };
    let (inside, port) = ("api.localhost".to_owned(), format!("{PORT}-{id}.localhost"));
    let direct = bench.server.url();
    table.add_times("exec round trip: server, agent", &door(&direct, inside.clone()).execs().await?, "");
    table.add_times("exec round trip: Traefik, server, agent", &door(&traefik, inside).execs().await?, "");
    table.add_times("GET of a port: gateway, agent", &door(&direct, port.clone()).gets().await?, "");
    table.add_times("GET of a port: Traefik, gateway, agent", &door(&traefik, port).gets().await?, "");
    bench.server.delete(&id).await
}

/// Leads everything that comes to Traefik to the server, as the chart does with a Service of pods.
fn lead(cluster: &Cluster, to: SocketAddr) -> Result<()> {
    let metadata = json!({ "name": "bench", "namespace": "atoll-system" });
    let mut slice = metadata.clone();
    slice["labels"] = json!({ "kubernetes.io/service-name": "bench" });
    for object in [
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": to.port() }] } }),
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice, "addressType": "IPv4",
            "ports": [{ "name": "http", "port": to.port() }], "endpoints": [{ "addresses": [to.ip().to_string()] }] }),
        json!({ "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": metadata,
            "spec": { "routes": [{ "kind": "Rule", "match": "HostRegexp(`localhost$`)",
                "services": [{ "name": "bench", "port": 80 }] }] } }),
    ] {
        cluster.apply(&object)?;
    }
    Ok(())
}

/// A way in.
struct Door {
    url: String,
    host: String,
    key: String,
    id: String,
}

impl Door {
    async fn execs(&self) -> Result<Times> {
        let body = ExecRequest { command: vec!["true".into()], ..ExecRequest::default() };
        let client = reqwest::Client::builder().tls_certs_only([]).build()?;
        let url = format!("{}/api/v1/sandboxes/{}/exec", self.url, self.id);
        self.times(|| client.post(&url).json(&body)).await
    }

    async fn gets(&self) -> Result<Times> {
        let client = reqwest::Client::builder().tls_certs_only([]).build()?;
        self.times(|| client.get(format!("{}/hostname", self.url))).await
    }

    async fn times(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Times> {
        let ask = async || -> Result<Duration> {
            let begun = Instant::now();
            let answer = request().header("host", &self.host).header("x-api-key", &self.key).send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            ensure!(status.is_success(), "{}: {status} {text}", self.host);
            Ok(begun.elapsed())
        };
        wait_until("the door opens", async || ask().await.map(|_| true)).await?;
        let mut times = Times::default();
        for _ in 0..SAMPLES {
            times.add(ask().await?);
        }
        Ok(times)
    }
}
