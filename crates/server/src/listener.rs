//! The accept loop: connections within a bound, TLS where it is asked for, HTTP/1.1 and HTTP/2 on one port, and a stop
//! that lets requests finish. It must not know what is served.

use atoll_core::{
    driver::Driver,
    store::{Store, Templates},
};
use futures::{FutureExt, future::BoxFuture};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible, future::Future, io, net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    certificates::Certificates,
    config::ServerConfig,
    front::Front,
    http,
    metrics::Metrics,
    patience::Patient,
    services::{Base, Services},
    world::World,
};

/// Why a server cannot begin, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Without keys everybody who can connect is admin.
    #[error(
        "{0} can be reached from other machines, and without keys everybody there would be admin; listen on 127.0.0.1"
    )]
    OpenWithoutKeys(SocketAddr),
    /// The socket is of no use.
    #[error("the listening socket failed: {0}")]
    Socket(#[source] io::Error),
    /// Certificate or key cannot be read.
    #[error("the TLS certificate or key cannot be used: {0}")]
    Tls(String),
}

/// What the server stands on, wired by whoever starts it.
#[derive(Clone)]
pub struct Ports {
    /// What runs sandboxes.
    pub driver: Arc<dyn Driver>,
    /// What is remembered besides.
    pub store: Arc<dyn Store>,
    /// The store's, unless the driver's platform keeps them.
    pub templates: Arc<dyn Templates>,
    /// What sees each request before the API does.
    pub front: Option<Arc<dyn Front>>,
}

/// Serves on `listener` until `shutdown` is ready and the requests of that moment have ended, within a bound.
///
/// # Errors
/// When it cannot begin.
pub async fn serve(
    config: ServerConfig,
    listener: TcpListener,
    ports: Ports,
    world: Arc<dyn World>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Socket)?;
    if config.no_auth && !address.ip().is_loopback() {
        return Err(ServeError::OpenWithoutKeys(address));
    }
    let tls = config.tls.clone().map(acceptor).transpose()?;
    let stopping = CancellationToken::new();
    let Ports { driver, store, templates, front } = ports;
    let (metrics, stop) = (Metrics::new(front.as_deref()), stopping.clone());
    let base = Base { config, driver, store, templates, world, metrics, stopping: stop };
    let services = Arc::new(Services::new(base));
    services.begin_background();
    let doors = Doors::new(&services, front, tls);
    tokio::select! {
        () = doors.accept(&listener) => {}
        () = shutdown => {}
    }
    drop(listener);
    stopping.cancel();
    doors.drain(services.base.config.limits.drain).await;
    Ok(())
}

fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, ServeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| ServeError::Tls(error.to_string()))?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What every connection needs.
struct Doors {
    answering: Answering,
    http: auto::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    patience: Duration,
    connections: TaskTracker,
    /// Requests may finish, no new ones begin.
    closing: CancellationToken,
    /// Nothing may finish any more.
    over: CancellationToken,
}

impl Doors {
    fn new(services: &Arc<Services>, front: Option<Arc<dyn Front>>, tls: Option<TlsAcceptor>) -> Self {
        let limits = &services.base.config.limits;
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.header_timeout)
            .keep_alive_timeout(limits.header_timeout)
            .adaptive_window(true)
            .enable_connect_protocol();
        Self {
            answering: Answering { front, api: http::router(services.clone()) },
            http,
            tls,
            places: Arc::new(Semaphore::new(limits.connections)),
            patience: limits.header_timeout,
            connections: TaskTracker::new(),
            closing: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    /// Accepts for ever.
    async fn accept(&self, listener: &TcpListener) {
        // The semaphore is never closed.
        while let Ok(place) = self.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => self.open(stream, peer, place),
                Err(error) => {
                    // Out of descriptors, or a peer that left already: either passes.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn open(&self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        // Answers are written whole; waiting to merge them only delays them.
        let _ = stream.set_nodelay(true);
        let (http, tls) = (self.http.clone(), self.tls.clone());
        let answering = (self.answering.clone(), peer);
        let (closing, over, patience) = (self.closing.clone(), self.over.clone(), self.patience);
        self.connections.spawn(async move {
            let _place = place;
            let served = async {
                match tls {
                    None => talk(&http, stream, answering, &closing, patience).await,
                    Some(tls) => match tokio::time::timeout(patience, tls.accept(stream)).await {
                        Ok(Ok(stream)) => talk(&http, stream, answering, &closing, patience).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    },
                }
            };
            tokio::select! {
                () = served => {}
                () = over.cancelled() => {}
            }
        });
    }

    /// Lets requests finish for so long, then ends every connection.
    async fn drain(&self, patience: Duration) {
        self.closing.cancel();
        self.connections.close();
        if tokio::time::timeout(patience, self.connections.wait()).await.is_err() {
            tracing::warn!(
                left = self.connections.len(),
                "requests were cut off: they took too long to finish"
            );
            self.over.cancel();
            self.connections.wait().await;
        }
    }
}

/// Answers the requests of every connection.
#[derive(Clone)]
struct Answering {
    front: Option<Arc<dyn Front>>,
    api: axum::Router,
}

impl Answering {
    fn answer(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Result<Response<axum::body::Body>, Infallible>> {
        let request = match &self.front {
            Some(front) => front.answer(peer, request),
            None => ControlFlow::Continue(request),
        };
        match request {
            ControlFlow::Break(answer) => {
                answer.map(|response| Ok(response.map(axum::body::Body::new))).boxed()
            }
            ControlFlow::Continue(request) => self.api.clone().oneshot(request).boxed(),
        }
    }
}

async fn talk(
    http: &auto::Builder<TokioExecutor>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    (answering, peer): (Answering, SocketAddr),
    closing: &CancellationToken,
    patience: Duration,
) {
    let stream = TokioIo::new(Patient::new(stream, patience));
    let service = service_fn(move |request| answering.answer(peer, request));
    let connection = http.serve_connection_with_upgrades(stream, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
