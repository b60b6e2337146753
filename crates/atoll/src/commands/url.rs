//! `url`: a link to a port of a sandbox.

use atoll_client::api::{Link, Port};

use super::{Context, resolve};
use crate::failure::Failure;

/// `atoll url`
pub async fn url(
    context: &Context,
    written: &str,
    port: String,
    expires: Option<u64>,
) -> Result<(), Failure> {
    let sandbox = resolve::sandbox(&context.client, written).await?;
    let port = port.parse().map_or(Port::Name(port), Port::Number);
    let link: Link = sandbox.link(port, expires).await?;
    context.format.print_done(&link, &link.url)
}
