//! The gateway as a whole: each request's way from its arrival to the sandbox or to a refusal.

use atoll_core::{
    address::{ContentAddress, Destination},
    driver::Driver,
    link::{Grant, LinkKey},
    phase::Phase,
    store::Store,
};
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::registry::Registry;
use std::{net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

use crate::{
    access::{self, Shown},
    body::Body,
    credentials::{self, Tokens},
    forward::Way,
    headers,
    index::{Index, Known},
    keys::Keys,
    metrics::Metrics,
    pool::Pool,
    refusal::{Manner, Refusal},
    route::{Route, route},
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
        let manner = Manner::of(request.headers());
        match self.pass(peer, route, request).await {
            Ok(response) => {
                self.metrics.ended("answered");
                response
            }
            Err(refusal) => {
                self.metrics.ended(refusal.classify().1);
                refusal.answer(&manner)
            }
        }
    }

    async fn pass(
        &self,
        peer: SocketAddr,
        route: Route,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (destination, by_host) = match route {
            Route::To { destination, by_host } => (destination, by_host),
            Route::Malformed(problem) => return Err(Refusal::Malformed(problem)),
            Route::Nothing | Route::Elsewhere => return Err(Refusal::UnknownHost),
        };
        let (mut parts, body) = request.into_parts();
        let tokens = credentials::take_tokens(&mut parts, self.config.address.is_https());
        let (shown, link) = self.shown(&mut parts, tokens).await?;
        let found = self.find(&destination).await?;
        let port = found.as_deref().and_then(|known| port_of(known, &destination));
        let now = (self.clock)();
        let known = access::decide(found.as_deref(), port, &shown, now)?;
        let Some(port) = port else {
            return Err(Refusal::UnknownPort(name_of(destination)));
        };
        if let Some((token, grant)) = link.filter(|(_, grant)| grant.opens(&known.id, port, now))
            && by_host
            && is_visit(&parts)
        {
            return self.redirect(&destination, &parts, &token, grant.expires_at.duration_since(now));
        }
        let starts = matches!(known.phase, Phase::Stopped | Phase::Creating);
        let way = Way { id: known.id.clone(), port, runs: known.phase == Phase::Running, starts };
        self.forward(&way, peer.ip(), parts, body).await
    }

    /// What the request shows, and the token of a link when that is good. Keys of ours are taken out.
    async fn shown(
        &self,
        parts: &mut Parts,
        tokens: Tokens,
    ) -> Result<(Shown, Option<(String, Grant)>), Refusal> {
        let ambient = credentials::ambient_counts(parts);
        if self.config.no_auth && !ambient {
            return Err(Refusal::OtherSite);
        }
        let mut shown = Shown { everybody: self.config.no_auth, ..Shown::default() };
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

/// Somebody looks at a page; a program that changes the protocol follows no redirect.
fn is_visit(parts: &Parts) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && headers::wanted_upgrade(&parts.headers).is_none()
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
