//! Puts the gateway in front of the API, on the server's port.

use atoll_core::{address::ContentAddress, driver::Driver, link::LinkKey, store::Store};
use atoll_gateway::{Config, Gateway};
use atoll_server::{Answer, Front, World};
use futures::{FutureExt, future::BoxFuture};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Incoming};
use std::{io, net::SocketAddr, ops::ControlFlow, path::PathBuf, sync::Arc};

use super::secret_file;
use crate::{
    cli::{Serve, ServerRole},
    failure::Failure,
};

/// The file of the key that links are signed with, in the data directory.
const FILE: &str = "gateway.key";
/// Bytes of that key.
const KEY: usize = 32;

/// The gateway, as the server knows it.
struct Door(Gateway);

impl Front for Door {
    fn answer(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> ControlFlow<BoxFuture<'static, Answer>, Request<Incoming>> {
        self.0.answer(peer, request).map_break(|answer| answer.map(boxed).boxed())
    }

    fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.0.register(registry);
    }
}

fn boxed(response: Response<atoll_gateway::Body>) -> Answer {
    response.map(|body| UnsyncBoxBody::new(body.map_err(Into::into)))
}

/// The gateway that the command line describes; none where another process is that.
pub fn open(
    args: &Serve,
    address: &ContentAddress,
    link_key: &LinkKey,
    driver: &Arc<dyn Driver>,
    store: &Arc<dyn Store>,
    world: &Arc<dyn World>,
) -> Option<Arc<dyn Front>> {
    if args.role == ServerRole::Api {
        return None;
    }
    let config = Config {
        address: address.clone(),
        link_key: link_key.clone(),
        no_auth: args.no_auth,
        limits: atoll_gateway::Limits::default(),
    };
    let world = world.clone();
    let clock = Arc::new(move || world.now());
    Some(Arc::new(Door(Gateway::new(config, driver.clone(), store.clone(), clock))))
}

/// The names of sandboxes, as browsers are to use them.
pub fn address(args: &Serve, listening: SocketAddr) -> Result<ContentAddress, Failure> {
    let scheme = if args.is_tls() { "https" } else { "http" };
    let own = || format!("{scheme}://{{host}}:{}", listening.port());
    let pattern = args.content_url.clone().unwrap_or_else(own);
    ContentAddress::new(&args.domain, &pattern).map_err(|refused| {
        let flag = if refused.field == "domain" { "--domain" } else { "--content-url" };
        Failure::Wrong(format!("{flag}: {}", refused.problem))
    })
}

/// The key that links are signed with, made at the first start.
pub fn link_key(args: &Serve, world: &dyn World) -> Result<LinkKey, Failure> {
    let path: PathBuf = args.gateway_key.clone().unwrap_or_else(|| args.data.join(FILE));
    let made = || {
        let mut bytes = vec![0; KEY];
        world.fill(&mut bytes)?;
        Ok(bytes)
    };
    let read = || {
        let bytes: [u8; KEY] = secret_file::ensure(&path, made)?
            .try_into()
            .map_err(|_| io::Error::other(format!("a key is {KEY} bytes, no more and no less")))?;
        Ok(LinkKey::new(bytes))
    };
    read().map_err(|source| Failure::file("keep the key of links in", &path, source))
}
