//! `stop`, `start`, `restart`, `pause`, `resume` and `rm`: several sandboxes at once, each on its own.

use atoll_client::{ListSandboxes, Sandbox, api::Sandbox as Info};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Context, Removed, finish, resolve};
use crate::{
    cli::{Rm, Several},
    failure::Failure,
    output, values,
};

/// How many calls are made at once.
const AT_ONCE: usize = 16;

/// Where to.
#[derive(Clone, Copy, Debug)]
pub enum Move {
    /// No processes, files kept.
    Stop,
    /// Running again.
    Start,
    /// Both.
    Restart,
    /// Frozen.
    Pause,
    /// Thawed.
    Resume,
}

/// `atoll stop` and its like.
pub async fn moves(context: &Context, args: Several, to: Move) -> Result<(), Failure> {
    let outcomes = args.sandboxes.iter().map(|written| move_one(context, written, to));
    finish(context.format, stream::iter(outcomes).buffered(AT_ONCE).collect().await, |sandbox: &Info| {
        &sandbox.id
    })
}

async fn move_one(context: &Context, written: &str, to: Move) -> Result<Info, Failure> {
    let sandbox = resolve::sandbox(&context.client, written).await?;
    Ok(match to {
        Move::Stop => sandbox.stop().await,
        Move::Start => sandbox.start().await,
        Move::Restart => sandbox.restart().await,
        Move::Pause => sandbox.pause().await,
        Move::Resume => sandbox.resume().await,
    }?)
}

/// `atoll rm`
pub async fn rm(context: &Context, args: Rm) -> Result<(), Failure> {
    let mut written = args.sandboxes.clone();
    if args.all || !args.label.is_empty() {
        written = matching(context, &args).await?;
        if !args.force && !written.is_empty() {
            output::confirm(&format!("remove {} sandboxes with their files", written.len()))?;
        }
    }
    let outcomes = written.iter().map(|written| remove(context, written, args.force));
    let outcomes: Vec<_> = stream::iter(outcomes).buffered(AT_ONCE).collect().await;
    finish(context.format, outcomes.into_iter().filter_map(Result::transpose).collect(), Removed::name)
}

async fn matching(context: &Context, args: &Rm) -> Result<Vec<String>, Failure> {
    let labels = values::pairs(&args.label).map_err(Failure::Wrong)?;
    let query = ListSandboxes { labels, page_size: Some(1000), ..ListSandboxes::default() };
    Ok(context.client.sandboxes().list(query).map_ok(|sandbox| sandbox.id).try_collect().await?)
}

/// With `force`, one that is gone already is none to mind.
async fn remove(context: &Context, written: &str, force: bool) -> Result<Option<Removed>, Failure> {
    let sandbox: Sandbox = match resolve::sandbox(&context.client, written).await {
        Err(Failure::Wrong(_)) if force => return Ok(None),
        found => found?,
    };
    match sandbox.delete().await {
        Err(error) if force && error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(Some(Removed::new("id", sandbox.id()))),
    }
}
