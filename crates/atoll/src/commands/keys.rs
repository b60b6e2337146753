//! `keys`: made, listed, revoked.

use atoll_client::api::{CreateKey, Key, Role};
use serde::Serialize;

use super::{Context, tally, word};
use crate::{
    cli::{self, Keys},
    failure::Failure,
    output::Format,
    values::moment,
};

/// `atoll keys`
pub async fn keys(context: &Context, command: Keys) -> Result<(), Failure> {
    match command {
        Keys::Ls => {
            let items = context.client.keys().await?;
            let header = ["ID", "NAME", "TENANT", "ROLE", "MADE"];
            context.format.print_all(&items, &header, row, |key| &key.id)
        }
        Keys::Create { name, tenant, role } => create(context, name, tenant, role).await,
        Keys::Rm { ids } => rm(context, ids).await,
    }
}

fn row(key: &Key) -> Vec<String> {
    vec![key.id.clone(), key.name.clone(), key.tenant.clone(), word(&key.role), moment(key.created_at)]
}

async fn create(
    context: &Context,
    name: String,
    tenant: Option<String>,
    role: cli::Role,
) -> Result<(), Failure> {
    let role = match role {
        cli::Role::Member => Role::Member,
        cli::Role::Admin => Role::Admin,
    };
    let key = context.client.create_key(&CreateKey { name, tenant, role: Some(role) }).await?;
    context.format.print_one(&key, fields, &key.id)
}

fn fields(key: &Key) -> Vec<(&'static str, String)> {
    vec![
        ("id", key.id.clone()),
        ("name", key.name.clone()),
        ("tenant", key.tenant.clone()),
        ("role", word(&key.role)),
        ("secret", key.secret.clone().unwrap_or_default()),
    ]
}

/// A key that was revoked.
#[derive(Serialize)]
struct Removed<'a> {
    id: &'a str,
    removed: bool,
}

async fn rm(context: &Context, ids: Vec<String>) -> Result<(), Failure> {
    let (mut removed, mut outcomes) = (Vec::new(), Vec::new());
    for id in &ids {
        let outcome = context.client.remove_key(id).await;
        outcomes.push(outcome.map(|()| removed.push(Removed { id, removed: true })).map_err(Into::into));
    }
    let format = if context.format == Format::Table { Format::Name } else { context.format };
    format.print_all(&removed, &[], |_| Vec::new(), |removed| removed.id)?;
    tally(outcomes)
}
