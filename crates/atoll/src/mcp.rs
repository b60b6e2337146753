//! `mcp`: sandboxes as tools of AI agents, by the Model Context Protocol. It does everything through the SDK, as any other
//! client; the one thing of its own is which sandbox is meant when an agent names none.

mod bound;
mod folder;
mod home;
mod http;
mod inputs;
mod run;
mod tools;
mod trouble;

use atoll_client::Client;
use rmcp::ServiceExt;
use std::{path::PathBuf, sync::Arc};

use crate::{
    cli::{Global, LogFormat, Mcp},
    config,
    failure::Failure,
    serve::{asked_to_stop, logging},
};
use folder::Folder;
use home::{Homes, Wanted};
use tools::Tools;

/// `atoll mcp`
pub async fn mcp(global: &Global, args: Mcp) -> Result<(), Failure> {
    logging::begin(LogFormat::Auto, "warn");
    let client = Client::new(config::load(global)?)?;
    let (homes, janitor) = Homes::new(client.clone(), wanted(&args));
    let stop = asked_to_stop()?;
    let served = match args.http {
        Some(address) => {
            let tools = Tools::new(client, homes.clone(), folder(args.files.clone(), None)?);
            http::serve(address, args.token, tools, stop).await
        }
        None => {
            let tools =
                Tools::new(client, homes.clone(), folder(args.files.clone(), Some(PathBuf::from(".")))?);
            over_standard_streams(tools, stop).await
        }
    };
    // What sessions leave behind is removed before this ends, however it ends.
    drop(homes);
    janitor.finish().await;
    served
}

/// The sandbox of a session that names none.
fn wanted(args: &Mcp) -> Wanted {
    Wanted {
        image: args.image.clone(),
        template: args.template.clone(),
        sandbox: args.sandbox.clone(),
        keep: args.keep,
    }
}

fn folder(given: Option<PathBuf>, usual: Option<PathBuf>) -> Result<Option<Arc<Folder>>, Failure> {
    let Some(path) = given.or(usual) else { return Ok(None) };
    let opened = Folder::open(&path).map_err(|source| Failure::file("open", &path, source))?;
    Ok(Some(Arc::new(opened)))
}

async fn over_standard_streams(tools: Tools, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Wrong(format!("the agent's client: {error}"));
    let starting = tools.serve(rmcp::transport::io::stdio_pipes());
    tokio::pin!(stop);
    let service = tokio::select! {
        service = starting => service.map_err(|error| failed(&error))?,
        () = &mut stop => return Ok(()),
    };
    let end = service.cancellation_token();
    let waiting = service.waiting();
    tokio::pin!(waiting);
    tokio::select! {
        ended = &mut waiting => ended.map(drop).map_err(|error| failed(&error)),
        () = stop => {
            end.cancel();
            waiting.await.map(drop).map_err(|error| failed(&error))
        }
    }
}
