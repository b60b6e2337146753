//! `logs`: what the start command wrote, and what happened to the sandbox.

use atoll_client::{Sandbox, api::Transition};
use futures::TryStreamExt;
use tokio::io::AsyncWriteExt;

use super::{Context, resolve, word};
use crate::{
    cli::Logs,
    failure::Failure,
    output::{self, Format},
    values::{last_lines, moment},
};

/// `atoll logs`
pub async fn logs(context: &Context, args: Logs) -> Result<(), Failure> {
    let sandbox = resolve::sandbox(&context.client, &args.sandbox).await?;
    if args.follow {
        return follow(&sandbox, args.tail).await;
    }
    let mut found = sandbox.logs(None).await?;
    if args.events {
        let header = ["WHEN", "PHASE", "CODE", "WHY"];
        return context.format.print_all(&found.events, &header, event_row, |event| &event.reason.code);
    }
    if let Some(lines) = args.tail {
        found.logs = last_lines(&found.logs, lines).to_owned();
    }
    match context.format {
        Format::Json => output::print_json(&found),
        Format::Table | Format::Name => output::print(&found.logs),
    }
}

fn event_row(event: &Transition) -> Vec<String> {
    vec![moment(event.at), word(&event.phase), event.reason.code.clone(), event.reason.message.clone()]
}

/// The server counts bytes from the end, people count lines.
async fn follow(sandbox: &Sandbox, lines: Option<usize>) -> Result<(), Failure> {
    let tail = match lines {
        Some(0) => Some(0),
        Some(lines) => Some(last_lines(&sandbox.logs(None).await?.logs, lines).len() as u64),
        None => None,
    };
    let mut pieces = sandbox.follow_logs(tail).await?;
    let mut out = tokio::io::stdout();
    let failed = |source| Failure::io("write to standard output", source);
    while let Some(piece) = pieces.try_next().await? {
        out.write_all(&piece).await.map_err(failed)?;
        out.flush().await.map_err(failed)?;
    }
    Ok(())
}
