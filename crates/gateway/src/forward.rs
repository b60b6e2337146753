//! Passing a request on to a port of a sandbox and its answer back. Here is I/O; who may send it was decided before.

use atoll_core::{
    address::AGENT_PORT,
    driver::{BoxStream, DriverError, Target},
    early::HearsOut,
    id::SandboxId,
    sandbox::PORT_MARK,
};
use atoll_proto::{
    agent::{AWAKE_ONLY_HEADER, RESTING_HEADER},
    sign,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, HeaderName},
    request::Parts,
};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    ext::Protocol,
};
use hyper_util::rt::TokioIo;
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    activity::Pulse,
    body::{Body, Ending, Inbound, Outgoing},
    gateway::Inner,
    headers,
    pool::Lease,
    refusal::Refusal,
    route, tls, tunnel,
};

/// First and longest pause between two looks at a port that is to open.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// Where a request goes.
pub struct Way {
    pub id: SandboxId,
    /// A port of the sandbox's; that of the agent leads to the agent.
    pub port: u16,
    /// What the application there is to see as `Host`, unless it is what was asked for.
    pub mask_host: Option<String>,
    /// Whether the application speaks HTTPS.
    pub over_tls: bool,
    /// Whether the request may wake it.
    pub wakes: bool,
    /// Whether it ran when the request came.
    pub runs: bool,
    /// Whether it must be started: what listens there will take a moment.
    pub starts: bool,
}

impl Way {
    fn is_to_agent(&self) -> bool {
        self.port == AGENT_PORT
    }

    fn target(&self) -> Target {
        if self.is_to_agent() { Target::Agent } else { Target::Port(self.port) }
    }

    /// What a stream of messages from the agent ends with when the sandbox goes away meanwhile.
    fn ending(&self, response: &Response<Incoming>) -> Option<Ending> {
        let kind = response.headers().get(header::CONTENT_TYPE)?.as_bytes();
        let streams = self.is_to_agent() && kind.starts_with(b"application/connect+");
        streams.then(|| {
            Ending::new(format!("the connection to sandbox {} ended before the stream did", self.id))
        })
    }
}

/// The protocol that a request wants to change to, and how it asked.
enum Change {
    /// As HTTP/1.1 does it.
    Upgrade(HeaderValue),
    /// As HTTP/2 does it (RFC 8441).
    Connect(HeaderValue),
}

impl Change {
    fn of(parts: &Parts) -> Result<Option<Self>, Refusal> {
        if parts.method == Method::CONNECT {
            let protocol = parts.extensions.get::<Protocol>();
            let protocol = protocol.and_then(|protocol| HeaderValue::from_str(protocol.as_str()).ok());
            let protocol = protocol.ok_or(Refusal::Malformed("CONNECT is for WebSockets only"))?;
            return Ok(Some(Self::Connect(protocol)));
        }
        Ok(headers::wanted_upgrade(&parts.headers).map(Self::Upgrade))
    }
}

/// Makes of a request what the sandbox is to get.
fn rewrite(parts: &mut Parts, way: &Way, peer: IpAddr, is_https: bool) -> Result<(), Refusal> {
    let readable = |host: &str| {
        HeaderValue::from_str(host).map_err(|_| Refusal::Malformed("the host name cannot be read"))
    };
    let asked = readable(route::authority(&parts.uri, &parts.headers).unwrap_or_default())?;
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::add_forwarded(&mut parts.headers, peer, &asked, is_https);
    let host = match &way.mask_host {
        Some(mask) => readable(&mask.replace(PORT_MARK, &way.port.to_string()))?,
        None => asked,
    };
    parts.headers.insert(header::HOST, host);
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    parts.version = Version::HTTP_11;
    Ok(())
}

fn no_handshake(way: &Way, error: &impl std::fmt::Display) -> Refusal {
    tracing::debug!(sandbox = %way.id, port = way.port, %error, "no handshake");
    Refusal::NoAnswer(way.port)
}

/// Whether it can be said again without harm.
fn is_repeatable(parts: &Parts, body: &Inbound) -> bool {
    body.is_end_stream() && matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn settle(response: &mut Response<Incoming>) {
    headers::remove_hop_by_hop(response.headers_mut());
    *response.version_mut() = Version::default();
}

impl Inner {
    /// Passes a request on.
    pub async fn forward(
        &self,
        way: &Way,
        peer: IpAddr,
        mut parts: Parts,
        body: Inbound,
    ) -> Result<Response<Body>, Refusal> {
        let change = if way.is_to_agent() { None } else { Change::of(&parts)? };
        rewrite(&mut parts, way, peer, self.config.address.is_https())?;
        let (driver, clock) = (self.driver.clone(), self.clock.clone());
        let pulse = Pulse::begin(driver, way.id.clone(), clock, self.metrics.clone());
        match change {
            Some(change) => self.tunnel(way, parts, body, change, pulse).await,
            None => self.exchange(way, &parts, body, pulse).await,
        }
    }

    async fn exchange(
        &self,
        way: &Way,
        parts: &Parts,
        body: Inbound,
        pulse: Arc<Pulse>,
    ) -> Result<Response<Body>, Refusal> {
        if !is_repeatable(parts, &body) {
            let body = Outgoing::Streamed { incoming: body, pulse: pulse.clone() };
            let lease = self.open(way).await?;
            return self.send(way, lease, self.request(way, parts, body), pulse).await;
        }
        // A frozen sandbox would not read what comes on a connection that it has.
        if let Some(lease) = self.pool.take(&(way.id.clone(), way.port)).filter(|_| way.runs)
            && let Ok(response) = {
                let request = self.request(way, parts, Outgoing::Nothing);
                self.send(way, lease, request, pulse.clone()).await
            }
        {
            return Ok(response);
        }
        let lease = self.open(way).await?;
        self.send(way, lease, self.request(way, parts, Outgoing::Nothing), pulse).await
    }

    /// A request as it is sent; to an agent that trusts the server alone, with the proof that it comes from there. The
    /// proof is good for a minute, so it is made when the connection is there.
    fn request(&self, way: &Way, parts: &Parts, body: Outgoing) -> Request<Outgoing> {
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.headers_mut() = parts.headers.clone();
        if way.is_to_agent() && !way.wakes {
            // It may have come to rest just now, elsewhere, and its agent knows.
            request.headers_mut().insert(AWAKE_ONLY_HEADER, HeaderValue::from_static("1"));
        }
        let signer = way.is_to_agent().then(|| self.driver.agent_signer(&way.id)).flatten();
        if let Some(sign) = signer {
            sign::prove(&mut request, (self.clock)().as_millisecond(), &*sign);
        }
        request
    }

    async fn send(
        &self,
        way: &Way,
        mut lease: Lease,
        request: Request<Outgoing>,
        pulse: Arc<Pulse>,
    ) -> Result<Response<Body>, Refusal> {
        let mut response = lease.send(request).await.map_err(|error| {
            tracing::debug!(sandbox = %way.id, port = way.port, %error, "no answer");
            Refusal::NoAnswer(way.port)
        })?;
        if way.is_to_agent() && response.headers().contains_key(RESTING_HEADER) {
            return Err(Refusal::Resting);
        }
        settle(&mut response);
        let ending = way.ending(&response);
        Ok(response.map(|body| Body::streamed(body, pulse, lease, ending)))
    }

    async fn open(&self, way: &Way) -> Result<Lease, Refusal> {
        Ok(self.pool.lease((way.id.clone(), way.port), self.connect(way).await?))
    }

    /// Connects, which wakes the sandbox.
    async fn connect(&self, way: &Way) -> Result<SendRequest<Outgoing>, Refusal> {
        let mut stream = self.opened(way).await?;
        if way.is_to_agent() {
            // An upload may be refused before all of it is there.
            stream = Box::new(HearsOut(stream));
        }
        if way.over_tls {
            stream = tls::within(stream).await.map_err(|error| no_handshake(way, &error))?;
        }
        self.metrics.connected();
        // Names of headers are no one's to tell apart by their letters' case, yet some do, by what other proxies send.
        let shaken = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| no_handshake(way, &error))?;
        tokio::spawn(async move {
            // How it ends is told to whoever waits for an answer.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    /// What is started only now listens a moment later: that moment is waited for.
    async fn opened(&self, way: &Way) -> Result<BoxStream, DriverError> {
        let (mut pause, longest) = PAUSES;
        let began = Instant::now();
        loop {
            match self.driver.connect(&way.id, way.target()).await {
                Err(DriverError::PortClosed(_))
                    if way.starts && began.elapsed() < self.config.limits.opening =>
                {
                    tokio::time::sleep(pause).await;
                    pause = longest.min(pause * 2);
                }
                connected => return connected,
            }
        }
    }

    /// Passes on a request to change the protocol, and joins both ends when the sandbox agrees.
    async fn tunnel(
        &self,
        way: &Way,
        mut parts: Parts,
        body: Inbound,
        change: Change,
        pulse: Arc<Pulse>,
    ) -> Result<Response<Body>, Refusal> {
        let place = self.tunnels.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let client = hyper::upgrade::on(Request::from_parts(parts.clone(), ()));
        let body = match &change {
            Change::Upgrade(protocol) => {
                headers::ask_for_upgrade(&mut parts.headers, protocol.clone());
                Outgoing::Streamed { incoming: body, pulse: pulse.clone() }
            }
            Change::Connect(protocol) => {
                parts.method = Method::GET;
                headers::ask_for_upgrade(&mut parts.headers, protocol.clone());
                parts.headers.insert(SEC_WEBSOCKET_KEY, new_key()?);
                Outgoing::Nothing
            }
        };
        let mut lease = self.open(way).await?;
        let sent = lease.send(self.request(way, &parts, body)).await;
        let mut response = sent.map_err(|_| Refusal::NoAnswer(way.port))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // To whoever asked by CONNECT, success would mean that there is a tunnel.
            if matches!(change, Change::Connect(_)) && response.status().is_success() {
                return Err(Refusal::NoTunnel(way.port));
            }
            settle(&mut response);
            return Ok(response.map(|body| Body::streamed(body, pulse, lease, None)));
        }
        let sandbox = hyper::upgrade::on(&mut response);
        tunnel::join(client, sandbox, pulse, place);
        Ok(agreed(response, &change))
    }
}

/// The answer that the change is made, in the words of the sender's protocol.
fn agreed(mut response: Response<Incoming>, change: &Change) -> Response<Body> {
    let protocol = response.headers().get(header::UPGRADE).cloned();
    settle(&mut response);
    let mut response = response.map(|_| Body::text(""));
    match change {
        Change::Upgrade(asked) => {
            headers::ask_for_upgrade(response.headers_mut(), protocol.unwrap_or_else(|| asked.clone()));
        }
        Change::Connect(_) => {
            *response.status_mut() = StatusCode::OK;
            remove_handshake(response.headers_mut());
        }
    }
    response
}

fn remove_handshake(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    headers.remove(header::CONTENT_LENGTH);
}

/// HTTP/2 has no such key, and HTTP/1.1 demands one (RFC 6455, 4.1).
fn new_key() -> Result<HeaderValue, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Refusal::Internal(format!("no randomness: {error}")))?;
    HeaderValue::from_str(&STANDARD.encode(bytes)).map_err(|error| Refusal::Internal(error.to_string()))
}
