//! Starts a server as stories do, for programs in other languages: prints the variables that lead to it, then
//! `READY=yes`, and ends it when its own input ends. What is then left on the host is told, and is a failure.
//!
//! `serve [--image NAME]... [ARGUMENT OF atoll serve]...`: images that must be there besides `base`. With `--tls-dev`, the
//! variables are those of a domain, the address that its names mean, and the authority to trust.

use anyhow::{Context, Result};
use atoll_proto::api::CreateKey;
use atoll_tests::{Options, Server};
use tokio::io::AsyncReadExt;

/// What the names of a server with `--tls-dev` are below.
const DOMAIN: &str = "atoll.localhost";

/// The tenant beside `default`; on a cluster it must have a namespace.
const OTHER: &str = "elsewhere";

/// Images to have, and what `atoll serve` is told.
fn arguments() -> Result<(Vec<String>, Vec<String>)> {
    let (mut images, mut rest) = (Vec::new(), Vec::new());
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        if argument == "--image" {
            images.push(given.next().context("--image needs a name")?);
        } else {
            rest.push(argument);
        }
    }
    Ok((images, rest))
}

/// A key of an ordinary member of the tenant.
async fn key(server: &Server, tenant: &str) -> Result<String> {
    let ask = CreateKey { name: "conformance".into(), tenant: Some(tenant.into()), role: None };
    server.client()?.create_key(&ask).await?.secret.context("a new key without its secret")
}

#[tokio::main]
async fn main() -> Result<()> {
    let (images, args) = arguments()?;
    let server = Server::start(Options { args, images, ..Options::default() }).await?;
    match server.authority_file() {
        Some(authority) => {
            println!("E2B_DOMAIN={DOMAIN}:{}", server.address().port());
            println!("CONFORMANCE_ADDRESS={}", server.address().ip());
            println!("CONFORMANCE_CA={}", authority.display());
        }
        None => println!("E2B_API_URL={0}\nE2B_SANDBOX_URL={0}", server.url()),
    }
    println!("E2B_API_KEY={}", key(&server, "default").await?);
    println!("E2B_OTHER_API_KEY={}", key(&server, OTHER).await?);
    println!("READY=yes");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    server.close().await
}
