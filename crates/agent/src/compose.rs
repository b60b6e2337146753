//! `POST /files/compose`: several files become one, as clients ask that upload a large file in parts.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::app::App;
use crate::download;
use crate::entries;
use crate::errors::ApiError;
use crate::http::{self as web, Body};
use crate::paths;
use crate::rpc;
use crate::spool::Spool;
use crate::transfer::Written;

/// More than this is no list of paths.
const REQUEST_LIMIT: usize = 4 << 20;

/// What is asked for.
#[derive(Deserialize)]
struct Compose {
    #[serde(default)]
    source_paths: Vec<String>,
    #[serde(default)]
    destination: String,
    #[serde(default)]
    username: Option<String>,
}

/// Puts the parts together in order, in the place of whatever is there, and removes them.
pub async fn compose(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let bad = |problem: String| ApiError::BadRequest(problem);
    let named = rpc::basic_user(request.headers());
    let body = Limited::new(request.into_body(), REQUEST_LIMIT).collect().await;
    let body = body.map_err(|error| bad(format!("invalid request body: {error}")))?.to_bytes();
    let ask: Compose =
        serde_json::from_slice(&body).map_err(|error| bad(format!("invalid request body: {error}")))?;
    if ask.source_paths.is_empty() {
        return Err(bad("source_paths must not be empty".into()));
    }
    if ask.destination.is_empty() {
        return Err(bad("destination is required".into()));
    }
    let account = app.account(ask.username.or(named).as_deref())?;
    let destination = paths::resolve(&ask.destination, &account.home)?;
    let sources = ask.source_paths.iter().map(|source| paths::resolve(source, &account.home));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    if let Some(same) = sources.iter().find(|source| **source == destination) {
        return Err(bad(format!("source path '{same}' cannot be the same as destination")));
    }
    let target = destination.clone();
    let placed = app.workers.run(&account, move || Ok(join(&sources, &target))).await;
    let placed = placed.map_err(ApiError::file(destination.clone()))??;
    Ok(web::json(StatusCode::OK, &Written::new(destination, &placed, BTreeMap::new())))
}

/// Blocking; whoever calls has taken on the user's credentials.
fn join(sources: &[String], target: &str) -> Result<PathBuf, ApiError> {
    let open = |source: &String| -> Result<File, ApiError> {
        Ok(download::open(source).map_err(ApiError::file(source))?.0)
    };
    // Before anything is written: what is missing or no file is told at once.
    sources.iter().try_for_each(|source| open(source).map(drop))?;
    let mut spool = Spool::create(target, false).map_err(ApiError::file(target))?;
    for source in sources {
        spool.append(&mut open(source)?).map_err(ApiError::file(target))?;
    }
    let placed = spool.commit(&BTreeMap::new()).map_err(ApiError::file(target))?;
    // The file is there: a part that stays is no failure.
    sources.iter().for_each(|source| drop(entries::remove(source)));
    Ok(placed)
}
