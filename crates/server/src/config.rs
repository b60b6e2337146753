//! What can be chosen about a server. Knows nothing of where the choices come from.

use std::time::Duration;

/// How a server behaves.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// Nobody needs a key and everybody is admin. Refused where the listener is reachable from other machines.
    pub no_auth: bool,
    /// `/metrics` needs no key.
    pub metrics_public: bool,
    /// Speak TLS.
    pub tls: Option<Tls>,
    /// How much of everything.
    pub limits: Limits,
}

/// Certificate chain and private key, both PEM.
#[derive(Clone)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificate: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Bounds, each with a default that suits one machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at the same time; more wait to be accepted.
    pub connections: usize,
    /// A connection that has not sent a request's head after so long is closed.
    pub header_timeout: Duration,
    /// How long requests may finish after the server was told to stop.
    pub drain: Duration,
    /// Creations that the driver is asked for at the same time.
    pub creates_at_once: usize,
    /// Creations that may wait for that; more are refused with 503.
    pub creates_waiting: usize,
    /// Bytes of a JSON body.
    pub json_body: usize,
    /// Bytes of each of a command's output streams in one answer.
    pub exec_output: usize,
    /// Connections to agents that are kept although nothing uses them.
    pub agents_idle: usize,
    /// How long each is kept.
    pub agent_idle_for: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_for: Duration,
    /// How long a key that was found in the store is believed without asking again.
    pub key_cache_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            creates_at_once: 32,
            creates_waiting: 2048,
            json_body: 16 << 20,
            exec_output: 16 << 20,
            agents_idle: 64,
            agent_idle_for: Duration::from_secs(2),
            idempotency_for: Duration::from_secs(24 * 60 * 60),
            key_cache_for: Duration::from_secs(10),
        }
    }
}
