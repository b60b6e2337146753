//! The gateway as a whole: each request's way from its arrival to the sandbox or to a refusal.

use atoll_core::{
    address::{AGENT_PORT, ContentAddress, Destination},
    driver::{Driver, DriverError},
    id::SandboxId,
    link::{Grant, LinkKey},
    phase::Phase,
    store::Store,
};
use atoll_proto::sign::SIGNATURE_HEADER;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::registry::Registry;
use std::{net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

use crate::{
    access::{self, Shown, Sought},
    agent::{self, Entry, Wish},
    body::{Body, Inbound},
    cors,
    credentials::{self, Tokens},
    forward::Way,
    headers,
    index::{Index, Known},
    keys::Keys,
    metrics::Metrics,
    path,
    pool::Pool,
    refusal::{Manner, Refusal},
    route::{By, Route, route},
    signature,
};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What can be chosen about a gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// The domain of sandboxes' host names.
    pub address: ContentAddress,
    /// What links are signed with.
    pub link_key: LinkKey,
    /// Nobody is asked for anything.
    pub no_auth: bool,
    /// How much of everything.
    pub limits: Limits,
}

/// Bounds, each with a default that suits one machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tunnels (WebSockets and their like) at the same time; more are refused with 503.
    pub tunnels: usize,
    /// How long a connection into a sandbox waits for another request.
    pub idle_for: Duration,
    /// How long a request waits for a port of a sandbox that had to be started for it.
    pub opening: Duration,
    /// How long an API key is believed without asking again.
    pub key_cache_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tunnels: 8192,
            idle_for: Duration::from_secs(2),
            opening: Duration::from_secs(30),
            key_cache_for: Duration::from_secs(2),
        }
    }
}

/// The front door. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Config,
    pub driver: Arc<dyn Driver>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub pool: Arc<Pool>,
    pub tunnels: Arc<Semaphore>,
    index: Index,
    keys: Keys,
}

impl Gateway {
    /// A gateway to the sandboxes of `driver`, for the keys of `store`. Only within a runtime.
    #[must_use]
    pub fn new(config: Config, driver: Arc<dyn Driver>, store: Arc<dyn Store>, clock: Clock) -> Self {
        let limits = &config.limits;
        let inner = Inner {
            index: Index::new(driver.clone()),
            keys: Keys::new(store, limits.key_cache_for),
            pool: Pool::new(limits.idle_for),
            tunnels: Arc::new(Semaphore::new(limits.tunnels)),
            metrics: Metrics::new(),
            driver,
            clock,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds its metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
    }

    /// The answer to a request for a sandbox, from `peer`; any other request is given back at once.
    pub fn answer(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> ControlFlow<BoxFuture<'static, Response<Body>>, Request<Incoming>> {
        let route = route(&self.inner.config.address, request.uri(), request.headers());
        if route == Route::Elsewhere {
            return ControlFlow::Continue(request);
        }
        let inner = self.inner.clone();
        ControlFlow::Break(async move { inner.answer(peer, route, request).await }.boxed())
    }
}

impl Inner {
    async fn answer(&self, peer: SocketAddr, route: Route, request: Request<Incoming>) -> Response<Body> {
        let manner = Manner::of(&route, request.headers());
        let is_e2b = matches!(manner, Manner::E2b(_));
        let to_agent = is_to_agent(&route);
        let mut response = match self.pass(peer, route, request, is_e2b).await {
            Ok(response) => {
                self.metrics.ended("answered");
                response
            }
            Err(refusal) => {
                self.metrics.ended(refusal.classify().1);
                refusal.answer(&manner)
            }
        };
        if to_agent {
            cors::open(response.headers_mut());
        }
        response
    }

    async fn pass(
        &self,
        peer: SocketAddr,
        route: Route,
        request: Request<Incoming>,
        is_e2b: bool,
    ) -> Result<Response<Body>, Refusal> {
        let (destination, by) = match route {
            Route::To { destination, by } => (destination, by),
            Route::Malformed(problem) => return Err(Refusal::Malformed(problem)),
            Route::Nobody => return Err(Refusal::NotFound),
            Route::Nothing | Route::Elsewhere => return Err(Refusal::UnknownHost),
        };
        let (mut parts, body) = request.map(Inbound::new).into_parts();
        if let By::Path(prefix) = &by {
            path::strip(&mut parts, prefix);
        }
        let tokens = credentials::take_tokens(&mut parts, self.config.address.is_https());
        let traffic = credentials::take_header(&mut parts.headers, credentials::TRAFFIC_HEADER);
        let (mut shown, link) = self.shown(&mut parts, tokens).await?;
        let found = self.find(&destination).await?;
        let port = found.as_deref().map_or_else(|| number_of(&destination), |it| port_of(it, &destination));
        if agent::is_agent(port) {
            let answer = self.pass_to_agent(peer, found.as_deref(), &shown, parts, body).await?;
            return Ok(confined(answer, &by));
        }
        if self.config.no_auth && !shown.everybody {
            return Err(Refusal::OtherSite);
        }
        let id = id_of(found.as_deref(), &destination);
        (shown.traffic, shown.e2b) = (self.is_traffic_token(id, traffic, &by, &mut parts), is_e2b);
        self.hide_agent_token(id, &mut parts);
        let now = (self.clock)();
        let known = access::decide(self.sought(found.as_deref(), id).await?, port, &shown, now)?;
        let Some(port) = port else {
            return Err(Refusal::UnknownPort(name_of(destination)));
        };
        if let Some((token, grant)) = link.filter(|(_, grant)| grant.opens(&known.id, port, now))
            && by == By::Host
            && is_visit(&parts)
        {
            return self.redirect(&destination, &parts, &token, grant.expires_at.duration_since(now));
        }
        let way = way(known, port, known.mask_host.clone())?;
        match self.forward(&way, peer.ip(), parts, body).await {
            Ok(answer) => Ok(confined(answer, &by)),
            Err(refusal) => Err(self.gone_meanwhile(known, refusal).await),
        }
    }

    /// Whether a token of a sandbox's ports was shown and is the right one. Who names the sandbox by the path shows it in
    /// the header that is the agent's elsewhere; it is taken out of there.
    fn is_traffic_token(
        &self,
        id: Option<&SandboxId>,
        shown: Option<String>,
        by: &By,
        parts: &mut Parts,
    ) -> Option<bool> {
        let is_right = |token: &str| id.is_some_and(|id| self.config.link_key.is_traffic_token(id, token));
        let other = parts.headers.get(agent::TOKEN_HEADER).filter(|_| matches!(by, By::Path(_)));
        if other.and_then(|value| value.to_str().ok()).is_some_and(is_right) {
            parts.headers.remove(agent::TOKEN_HEADER);
            return Some(true);
        }
        shown.as_deref().map(is_right)
    }

    /// Passes a request on to a sandbox's agent, as far as that is there for those outside.
    async fn pass_to_agent(
        &self,
        peer: SocketAddr,
        found: Option<&Known>,
        shown: &Shown,
        mut parts: Parts,
        body: Inbound,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(answer) = cors::preflight(&parts) {
            return Ok(answer);
        }
        let wish = agent::wish(&parts).ok_or(Refusal::NoEndpoint)?;
        let known = found.ok_or(Refusal::NotFound)?;
        let (id, key) = (&known.id, &self.config.link_key);
        let token = credentials::take_header(&mut parts.headers, agent::TOKEN_HEADER);
        let is_right = token.map(|token| key.is_agent_token(id, &token));
        let (now, query) = ((self.clock)().as_second(), parts.uri.query().unwrap_or_default());
        let signature = |operation| signature::check(query, operation, &key.agent_token(id), now);
        let entry = agent::admit(known, wish, shown, is_right, signature)?;
        if let Entry::Signed(query) = entry {
            // Whoever is let in for what was signed is nobody besides.
            parts.headers.remove(header::AUTHORIZATION);
            credentials::replace_query(&mut parts.uri, &query);
        }
        parts.headers.remove(SIGNATURE_HEADER);
        let way = way(known, AGENT_PORT, None)?;
        match self.forward(&way, peer.ip(), parts, body).await {
            // Clients ask for its health to learn whether a sandbox is there: that of one that is going away says nothing.
            Ok(_) if wish == Wish::Health && self.is_gone(id).await => Err(Refusal::NotFound),
            Err(Refusal::NoAnswer(_)) if self.is_gone(id).await => Err(Refusal::NotFound),
            passed => passed,
        }
    }

    async fn is_gone(&self, id: &SandboxId) -> bool {
        !matches!(self.driver.get(id).await, Ok(sandbox) if sandbox.phase == Phase::Running)
    }

    /// What goes away closes its ports first. Whoever was let in to what everybody sees is told that it is gone.
    async fn gone_meanwhile(&self, known: &Known, refusal: Refusal) -> Refusal {
        let is_gone = match &refusal {
            Refusal::NotFound => true,
            Refusal::PortClosed(_) | Refusal::NoAnswer(_) => match self.driver.get(&known.id).await {
                Ok(sandbox) => sandbox.phase == Phase::Terminating,
                Err(error) => matches!(error, DriverError::NotFound(_)),
            },
            _ => false,
        };
        match (is_gone, known.public) {
            (false, _) => refusal,
            (true, true) => Refusal::Gone,
            (true, false) => Refusal::NotFound,
        }
    }

    /// The agent's token opens more than any port: an application does not see it, though clients send it.
    fn hide_agent_token(&self, id: Option<&SandboxId>, parts: &mut Parts) {
        let shown = parts.headers.get(agent::TOKEN_HEADER).and_then(|value| value.to_str().ok());
        if id.zip(shown).is_some_and(|(id, token)| self.config.link_key.is_agent_token(id, token)) {
            parts.headers.remove(agent::TOKEN_HEADER);
        }
    }

    /// What the request shows, and the token of a link when that is good. Keys of ours are taken out.
    async fn shown(
        &self,
        parts: &mut Parts,
        tokens: Tokens,
    ) -> Result<(Shown, Option<(String, Grant)>), Refusal> {
        let ambient = credentials::ambient_counts(parts);
        let mut shown = Shown { everybody: self.config.no_auth && ambient, ..Shown::default() };
        for (header, secret) in credentials::possible_keys(&parts.headers) {
            if let Some(key) = self.keys.find(&secret).await? {
                parts.headers.remove(header);
                shown.keys.push(key);
            }
        }
        let verify = |token: &String| self.config.link_key.verify(token);
        let link = tokens.link.and_then(|token| verify(&token).map(|grant| (token, grant)));
        shown.grants.extend(tokens.header.as_ref().and_then(verify));
        shown.grants.extend(link.iter().map(|(_, grant)| grant.clone()));
        if ambient {
            shown.grants.extend(tokens.cookies.iter().filter_map(verify));
        }
        Ok((shown, link))
    }

    async fn find(&self, destination: &Destination) -> Result<Option<Arc<Known>>, Refusal> {
        Ok(match destination {
            Destination::Port { id, .. } => self.index.sandbox(id).await?,
            Destination::Named { label, .. } => self.index.primary(label).await?,
        })
    }

    async fn sought<'a>(
        &self,
        found: Option<&'a Known>,
        id: Option<&SandboxId>,
    ) -> Result<Sought<'a>, Refusal> {
        Ok(match (found, id) {
            (Some(known), _) => Sought::There(known),
            (None, Some(id)) if self.index.was_there(id).await? => Sought::Gone,
            (None, _) => Sought::Unknown,
        })
    }

    /// Keeps a link's token in a cookie and asks for the same address without it, so that it is in no history and in no
    /// `Referer`.
    fn redirect(
        &self,
        destination: &Destination,
        parts: &Parts,
        token: &str,
        life: SignedDuration,
    ) -> Result<Response<Body>, Refusal> {
        let address = &self.config.address;
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let seconds = life.as_secs();
        let secure = if address.is_https() { "; Secure" } else { "" };
        let name = credentials::cookie_name(address.is_https());
        let cookie = format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
        let mut response = Response::new(Body::text(""));
        *response.status_mut() = StatusCode::FOUND;
        for (name, value) in [
            (header::LOCATION, format!("{}{path}", address.url(destination))),
            (header::SET_COOKIE, cookie),
            (header::CACHE_CONTROL, "no-store".to_owned()),
            (header::REFERRER_POLICY, "no-referrer".to_owned()),
        ] {
            let value = HeaderValue::from_str(&value)
                .map_err(|_| Refusal::Malformed("the address cannot be read"))?;
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }
}

/// What comes back from a sandbox that a path named is on the API's own host.
fn confined(mut answer: Response<Body>, by: &By) -> Response<Body> {
    if let By::Path(prefix) = by {
        path::confine(answer.headers_mut(), prefix);
    }
    answer
}

/// Somebody looks at a page; a program that changes the protocol follows no redirect.
fn is_visit(parts: &Parts) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && headers::wanted_upgrade(&parts.headers).is_none()
}

/// Where a request goes, unless what rests there is to be left alone.
fn way(known: &Known, port: u16, mask_host: Option<String>) -> Result<Way, Refusal> {
    let rests = matches!(known.phase, Phase::Paused | Phase::Stopped);
    if rests && !known.wakes {
        return Err(Refusal::Resting);
    }
    let starts = matches!(known.phase, Phase::Stopped | Phase::Creating);
    Ok(Way {
        id: known.id.clone(),
        port,
        mask_host,
        over_tls: port != AGENT_PORT && known.https_ports.contains(&port),
        wakes: known.wakes,
        runs: known.phase == Phase::Running,
        starts,
    })
}

fn is_to_agent(route: &Route) -> bool {
    matches!(route, Route::To { destination, .. } if agent::is_agent(number_of(destination)))
}

fn number_of(destination: &Destination) -> Option<u16> {
    match destination {
        Destination::Port { port, .. } => Some(*port),
        Destination::Named { .. } => None,
    }
}

fn id_of<'a>(found: Option<&'a Known>, destination: &'a Destination) -> Option<&'a SandboxId> {
    match destination {
        Destination::Port { id, .. } => Some(id),
        Destination::Named { .. } => found.map(|known| &known.id),
    }
}

fn port_of(known: &Known, destination: &Destination) -> Option<u16> {
    match destination {
        Destination::Port { port, .. } => Some(*port),
        Destination::Named { name, .. } => known.ports.get(name).copied(),
    }
}

fn name_of(destination: Destination) -> String {
    match destination {
        Destination::Port { port, .. } => port.to_string(),
        Destination::Named { name, .. } => name,
    }
}
