//! `images`: fetched with a bar, listed, removed.

use atoll_client::{
    Error,
    api::{Image, Pruned, PullEvent, PullImage},
};
use futures::StreamExt;
use std::io;

use super::{Context, remove_each};
use crate::{cli::Images, failure::Failure, output, values::bytes};

/// `atoll images`
pub async fn images(context: &Context, command: Images) -> Result<(), Failure> {
    match command {
        Images::Pull { reference, username, password_stdin } => {
            let password = if password_stdin { Some(password()?) } else { None };
            pull(context, &PullImage { reference, username, password }).await
        }
        Images::Ls => ls(context).await,
        Images::Rm { references } => {
            remove_each(context, "reference", &references, async |reference| {
                context.client.remove_image(reference).await
            })
            .await
        }
        Images::Prune => prune(context).await,
    }
}

fn password() -> Result<String, Failure> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|source| Failure::io("read the password", source))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn pull(context: &Context, request: &PullImage) -> Result<(), Failure> {
    let bar = output::percent_bar(&request.reference);
    let pulled = follow(context, request, |percent| bar.set_position(percent.into())).await;
    bar.finish_and_clear();
    let image = pulled?;
    context.format.print_one(&image, fields, &image.reference)
}

async fn follow(context: &Context, request: &PullImage, show: impl Fn(u8)) -> Result<Image, Error> {
    let mut events = context.client.pull_stream(request).await?;
    while let Some(event) = events.next().await {
        match event? {
            PullEvent::Pulling { percent } => show(percent),
            PullEvent::Ready { image } => return Ok(image),
            PullEvent::Failed { error } => return Err(Error::from_event(error)),
        }
    }
    Err(Error::Interrupted)
}

fn fields(image: &Image) -> Vec<(&'static str, String)> {
    vec![
        ("reference", image.reference.clone()),
        ("digest", image.digest.clone()),
        ("size", bytes(image.size)),
        ("layers", image.layers.to_string()),
    ]
}

async fn ls(context: &Context) -> Result<(), Failure> {
    let items = context.client.images().await?;
    let header = ["REFERENCE", "DIGEST", "SIZE", "LAYERS", "USED BY"];
    context.format.print_all(&items, &header, row, |image| &image.reference)
}

fn row(image: &Image) -> Vec<String> {
    vec![
        image.reference.clone(),
        short(&image.digest),
        bytes(image.size),
        image.layers.to_string(),
        image.used_by.to_string(),
    ]
}

/// As much of a digest as tells images apart.
fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

async fn prune(context: &Context) -> Result<(), Failure> {
    let pruned = context.client.prune_images().await?;
    context.format.print_one(&pruned, freed, &pruned.bytes.to_string())
}

fn freed(pruned: &Pruned) -> Vec<(&'static str, String)> {
    vec![
        ("images", pruned.images.to_string()),
        ("layers", pruned.layers.to_string()),
        ("freed", bytes(pruned.bytes)),
    ]
}
