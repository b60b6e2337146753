//! What is counted, in Prometheus' terms. Labels have few values each: routes, never paths or ids.

use atoll_core::driver::DriverError;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use std::{fmt, time::Duration};

use crate::front::Front;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Mode {
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: String,
}

/// Every metric of a server.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    creates: Family<Outcome, Counter>,
    create_seconds: Histogram,
    execs: Family<Mode, Counter>,
    driver_errors: Family<ErrorKind, Counter>,
    sandboxes: Family<PhaseLabel, Gauge>,
}

impl Metrics {
    /// The server's own, and those of what stands in front of it.
    pub fn new(front: Option<&dyn Front>) -> Self {
        let mut it = Self {
            registry: Registry::with_prefix("atoll"),
            requests: Family::default(),
            creates: Family::default(),
            create_seconds: Histogram::new(exponential_buckets(0.002, 2.0, 16)),
            execs: Family::default(),
            driver_errors: Family::default(),
            sandboxes: Family::default(),
        };
        let all = &mut it.registry;
        all.register("build", "The server", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        all.register("http_requests", "Requests by route and status", it.requests.clone());
        all.register("creates", "Creations that ended", it.creates.clone());
        all.register("create_seconds", "From request to end of a creation", it.create_seconds.clone());
        all.register("execs", "Commands that were started", it.execs.clone());
        all.register("driver_errors", "What the driver refused or failed at", it.driver_errors.clone());
        all.register("sandboxes", "Sandboxes by phase", it.sandboxes.clone());
        if let Some(front) = front {
            front.register(all);
        }
        it
    }

    pub fn requested(&self, method: &str, route: &str, status: u16) {
        let label = Request { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&label).inc();
    }

    pub fn created(&self, well: bool, took: Duration) {
        let outcome = if well { "ready" } else { "failed" };
        self.creates.get_or_create(&Outcome { outcome }).inc();
        self.create_seconds.observe(took.as_secs_f64());
    }

    pub fn executed(&self, mode: &'static str) {
        self.execs.get_or_create(&Mode { mode }).inc();
    }

    pub fn driver_failed(&self, error: &DriverError) {
        let kind = match error {
            DriverError::NotFound(_) => "not_found",
            DriverError::Exists(_) => "exists",
            DriverError::Conflict { .. } => "conflict",
            DriverError::Invalid(_) => "invalid",
            DriverError::Image { .. } => "image",
            DriverError::Exhausted(_) => "exhausted",
            DriverError::InUse(_) => "in_use",
            DriverError::PortClosed(_) => "port_closed",
            DriverError::Unsupported(_) => "unsupported",
            DriverError::Internal(_) => "internal",
        };
        self.driver_errors.get_or_create(&ErrorKind { kind }).inc();
    }

    /// Writes everything as text; `phases` is counted by the caller at that moment.
    pub fn write(&self, phases: &[(String, i64)]) -> Result<String, fmt::Error> {
        for (phase, count) in phases {
            self.sandboxes.get_or_create(&PhaseLabel { phase: phase.clone() }).set(*count);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
