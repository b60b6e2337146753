//! `keys`: made, listed, revoked.

use atoll_client::api::{CreateKey, Key, Role};

use super::{Context, remove_each, word};
use crate::{
    cli::{self, Keys},
    failure::Failure,
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
        Keys::Rm { ids } => {
            remove_each(context, "id", &ids, async |id| context.client.remove_key(id).await).await
        }
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
