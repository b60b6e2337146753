//! `create` and `update`: sandboxes made with their steps shown, and changed.

use atoll_client::{
    Client, Error,
    api::{CreateEvent, CreateSandbox, Sandbox, UpdateSandbox},
};
use futures::{Stream, StreamExt};
use indicatif::ProgressBar;
use std::{pin::pin, time::Duration};
use tokio::sync::watch;

use super::{Context, list, resolve};
use crate::{
    attach::Signals,
    cli::{Create, Recipe, Update},
    failure::Failure,
    output,
};

/// How long a creation that is no longer wanted is given to say its id, so that it can be removed.
const SAY_ID: Duration = Duration::from_secs(5);

/// `atoll create`
pub async fn create(context: &Context, args: Create) -> Result<(), Failure> {
    let Create { source, command, recipe, no_wait, idempotency_key } = args;
    let (source, command) = shift(source, command, &recipe);
    let mut request = resolve::request(context, source.as_deref(), recipe).await?;
    request.start_command = (!command.is_empty()).then_some(command);
    let sandboxes = context.client.sandboxes();
    let made = match (idempotency_key, no_wait) {
        (Some(key), _) => sandboxes.create_once(&key, &request).await?,
        (None, true) => sandboxes.begin(&request).await?,
        (None, false) => watched(&context.client, &request).await?,
    };
    context.format.print_done(&made, &made.id)
}

/// With `--template` the first word is not a source but the command's.
pub fn shift(
    source: Option<String>,
    mut command: Vec<String>,
    recipe: &Recipe,
) -> (Option<String>, Vec<String>) {
    match source {
        Some(word) if recipe.template.is_some() => {
            command.insert(0, word);
            (None, command)
        }
        source => (source, command),
    }
}

/// `atoll update`
pub async fn update(context: &Context, args: Update) -> Result<(), Failure> {
    let change = UpdateSandbox { ttl: args.ttl, network: resolve::network(args.network) };
    if change == UpdateSandbox::default() {
        return Err(Failure::Wrong("nothing to change: give --ttl or --network".into()));
    }
    let sandbox = resolve::sandbox(&context.client, &args.sandbox).await?;
    let changed = sandbox.update(&change).await?;
    context.format.print_one(&changed, list::fields, &changed.id)
}

/// Makes a sandbox and shows its steps where somebody watches. A signal undoes it.
pub async fn watched(client: &Client, request: &CreateSandbox) -> Result<Sandbox, Failure> {
    let mut signals = Signals::listen()?;
    let bar = output::spinner("asking");
    let (id_known, mut id) = watch::channel(None);
    let mut making = pin!(follow(client, request, &bar, &id_known));
    let made = tokio::select! {
        made = &mut making => Ok(made),
        signal = signals.next() => Err(signal),
    };
    let result = match made {
        Ok(made) => made,
        Err(signal) => {
            bar.set_message("undoing");
            let id = tokio::select! {
                made = &mut making => made.ok().map(|sandbox| sandbox.id),
                known = id.wait_for(Option::is_some) => known.ok().and_then(|id| id.clone()),
                () = tokio::time::sleep(SAY_ID) => None,
            };
            undo(client, id).await;
            Err(Failure::Interrupted(signal))
        }
    };
    bar.finish_and_clear();
    result
}

async fn undo(client: &Client, id: Option<String>) {
    let Some(id) = id else { return };
    match tokio::time::timeout(SAY_ID, client.sandbox(&id).delete()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_not_found() => {}
        _ => output::complain(&format!("sandbox {id} may be left; remove it with `atoll rm {id}`")),
    }
}

async fn follow(
    client: &Client,
    request: &CreateSandbox,
    bar: &ProgressBar,
    id: &watch::Sender<Option<String>>,
) -> Result<Sandbox, Failure> {
    let steps = client.sandboxes().create_stream(request).await?;
    let made = steps_to_end(steps, bar, id).await;
    let known = id.borrow().clone();
    match (made, known) {
        // Losing the stream does not stop the creation.
        (Err(Error::Transport { .. } | Error::Interrupted), Some(id)) => Ok(poll(client, &id).await?),
        (made, _) => Ok(made?),
    }
}

async fn steps_to_end(
    mut steps: impl Stream<Item = Result<CreateEvent, Error>> + Unpin,
    bar: &ProgressBar,
    id: &watch::Sender<Option<String>>,
) -> Result<Sandbox, Error> {
    while let Some(step) = steps.next().await {
        match step? {
            CreateEvent::Queued { id: given } => {
                id.send_replace(Some(given));
                bar.set_message("queued");
            }
            CreateEvent::Pulling { percent } => bar.set_message(format!("pulling {percent}%")),
            CreateEvent::Preparing => bar.set_message("preparing"),
            CreateEvent::Starting => bar.set_message("starting"),
            CreateEvent::Ready { sandbox } => return Ok(*sandbox),
            CreateEvent::Failed { error } => return Err(Error::from_event(error)),
        }
    }
    Err(Error::Interrupted)
}

/// Waits for a sandbox whose creation is no longer told about.
async fn poll(client: &Client, id: &str) -> Result<Sandbox, Error> {
    use atoll_client::api::{ErrorBody, Phase};
    const PAUSE: Duration = Duration::from_millis(200);
    loop {
        let sandbox = client.sandbox(id).get().await?;
        match sandbox.phase {
            Phase::Creating => tokio::time::sleep(PAUSE).await,
            Phase::Failed | Phase::Terminating => {
                let (code, error) = (sandbox.reason.code, sandbox.reason.message);
                return Err(Error::from_event(ErrorBody { error, code, field: None }));
            }
            _ => return Ok(sandbox),
        }
    }
}
