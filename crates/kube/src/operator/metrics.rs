//! What the operator counts, in Prometheus' terms, and the small server that tells it. Must not know what is counted for.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// What a Prometheus server of today reads (OpenMetrics text format 1.0).
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Every metric of the operator.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    seconds: Histogram,
    starts: Histogram,
    writes: Counter,
    tenants: Gauge,
    leading: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut it = Self {
            registry: Registry::with_prefix("atoll_operator"),
            reconciles: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            starts: Histogram::new(exponential_buckets(0.1, 2.0, 12)),
            writes: Counter::default(),
            tenants: Gauge::default(),
            leading: Gauge::default(),
        };
        let registry = &mut it.registry;
        registry.register("reconciles", "Looks at a sandbox, by how they ended", it.reconciles.clone());
        registry.register("reconcile_seconds", "How long such a look took", it.seconds.clone());
        registry.register(
            "start_seconds",
            "From an object's creation to its agent's answer",
            it.starts.clone(),
        );
        registry.register("writes", "Writes to the cluster's API", it.writes.clone());
        registry.register("tenants", "Namespaces that are looked after", it.tenants.clone());
        registry.register("leading", "1 while this replica leads", it.leading.clone());
        it
    }
}

impl Metrics {
    /// Somebody looked at a sandbox.
    pub fn reconciled(&self, ended_well: bool, took: Duration) {
        let outcome = if ended_well { "ok" } else { "error" };
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A sandbox came to run.
    pub fn started(&self, seconds: f64) {
        self.starts.observe(seconds);
    }

    /// The cluster's API was written to.
    pub fn wrote(&self) {
        self.writes.inc();
    }

    /// So many tenants more, or fewer.
    pub fn tenants(&self, more: i64) {
        self.tenants.inc_by(more);
    }

    /// Whether this replica leads.
    pub fn leads(&self, leads: bool) {
        self.leading.set(leads.into());
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Answers `/metrics`, `/healthz` and `/readyz` until the process ends.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            let answers = service_fn(move |request| {
                let answer = answer(&request, &metrics);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            // A peer that breaks off is no news.
            let _ = http.serve_connection(TokioIo::new(stream), answers).await;
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, body) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, FORMAT, metrics.text()),
        "/healthz" | "/readyz" => (StatusCode::OK, "text/plain", "ok\n".into()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "there are /metrics, /healthz and /readyz\n".into()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told() {
        let metrics = Metrics::default();
        metrics.reconciled(true, Duration::from_millis(2));
        metrics.wrote();
        metrics.tenants(2);
        metrics.leads(true);
        let text = metrics.text();
        for line in [
            "atoll_operator_reconciles_total{outcome=\"ok\"} 1",
            "atoll_operator_writes_total 1",
            "atoll_operator_tenants 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
