//! How ports of sandboxes are reached from outside: their URLs, and links that open them.

use atoll_core::{
    address::{ContentAddress, Destination},
    link::{Grant, LONGEST_LIFE},
    owner,
    sandbox::Sandbox,
};
use atoll_proto::api;
use jiff::Timestamp;
use std::collections::BTreeMap;

use super::{Services, access::Caller, convert, error::ServiceError};

/// Seconds that a link lives when nobody says how long.
const USUAL_LIFE: u64 = 60 * 60;

impl Services {
    /// A sandbox in the API's words, with the URLs of its ports and what opens them.
    pub fn shown(&self, sandbox: Sandbox) -> api::Sandbox {
        let Some(links) = &self.base.config.links else { return convert::sandbox(sandbox) };
        let (address, id) = (&links.address, sandbox.id());
        let (urls, port_url) = (urls(address, &sandbox), Some(address.port_pattern(id)));
        let access_url = Some(format!("{}/api/v1/sandbox/{id}", address.shared()));
        let access_token = Some(links.key.traffic_token(id));
        api::Sandbox { urls, port_url, access_url, access_token, ..convert::sandbox(sandbox) }
    }

    /// A link that opens one port of a sandbox for a while.
    pub async fn link(
        &self,
        caller: &Caller,
        id: &str,
        ask: api::CreateLink,
    ) -> Result<api::Link, ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        let Some(links) = &self.base.config.links else {
            let message = "this server has no gateway that a link could lead to".to_owned();
            return Err(ServiceError::Refused { code: "no_gateway", message });
        };
        let port = port(&sandbox, &ask.port)?;
        let expires_at = end(self.base.world.now(), ask.expires_in.unwrap_or(USUAL_LIFE))?;
        let id = sandbox.id().clone();
        let token = links.key.sign(&Grant { id: id.clone(), port: Some(port), expires_at });
        let url = links.address.url(&Destination::Port { port, id });
        Ok(api::Link { url: format!("{url}/?atoll_token={token}"), token, expires_at })
    }
}

/// The URL of each named port: under its user's name, where it has a user.
fn urls(address: &ContentAddress, sandbox: &Sandbox) -> BTreeMap<String, String> {
    let spec = &sandbox.spec;
    let label = spec.owner.as_deref().map(|owner| owner::label(&spec.tenant, owner));
    let place = |name: &String, port: u16| match &label {
        Some(label) => Destination::Named { label: label.clone(), name: name.clone() },
        None => Destination::Port { port, id: spec.id.clone() },
    };
    spec.ports.iter().map(|(name, port)| (name.clone(), address.url(&place(name, *port)))).collect()
}

fn port(sandbox: &Sandbox, asked: &api::Port) -> Result<u16, ServiceError> {
    let refuse = |problem: String| ServiceError::invalid("port", problem);
    match asked {
        api::Port::Number(number) => {
            let port = u16::try_from(*number).ok().filter(|port| *port != 0);
            port.ok_or_else(|| refuse("is a number from 1 to 65535, or the name of a port".into()))
        }
        api::Port::Name(name) => sandbox.spec.ports.get(name).copied().ok_or_else(|| {
            let names: Vec<&str> = sandbox.spec.ports.keys().map(String::as_str).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            refuse(format!("{name:?} is no port that the sandbox names; those are: {names}"))
        }),
    }
}

/// To the second, as tokens have it.
fn end(now: Timestamp, seconds: u64) -> Result<Timestamp, ServiceError> {
    let known = (1..=LONGEST_LIFE).contains(&seconds).then(|| now.as_second() + seconds.cast_signed());
    let end = known.and_then(|second| Timestamp::from_second(second).ok());
    end.ok_or_else(|| ServiceError::invalid("expires_in", format!("is 1 to {LONGEST_LIFE} seconds")))
}
