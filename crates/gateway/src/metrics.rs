//! What is counted. Labels have few values: never a host name or an id.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

/// The gateway's metrics; clones count together.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Outcome, Counter>,
    opened: Counter,
    pub open: Gauge,
    pub inward: Counter,
    pub outward: Counter,
    bytes: Family<Direction, Counter>,
}

impl Metrics {
    pub fn new() -> Self {
        let bytes = Family::<Direction, Counter>::default();
        let of = |direction| bytes.get_or_create(&Direction { direction }).clone();
        let (inward, outward) = (of("in"), of("out"));
        Self {
            requests: Family::default(),
            opened: Counter::default(),
            open: Gauge::default(),
            inward,
            outward,
            bytes,
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        let all = registry.sub_registry_with_prefix("gateway");
        all.register("requests", "Requests for sandboxes by how they ended", self.requests.clone());
        all.register("connections", "Connections made into sandboxes", self.opened.clone());
        all.register("open", "Exchanges and tunnels that are open", self.open.clone());
        all.register_with_unit(
            "body",
            "Bytes of bodies and tunnels, to sandboxes and from them",
            Unit::Bytes,
            self.bytes.clone(),
        );
    }

    /// A request ended: `answered` or the code of a refusal.
    pub fn ended(&self, outcome: &'static str) {
        self.requests.get_or_create(&Outcome { outcome }).inc();
    }

    /// A connection into a sandbox was made.
    pub fn connected(&self) {
        self.opened.inc();
    }
}
