//! From what a person writes to what is meant: the beginning of an id, the name of a template or an image.

use atoll_client::{Client, ListSandboxes, Sandbox, api::CreateSandbox};
use futures::TryStreamExt;

use super::Context;
use crate::{cli::Recipe, failure::Failure, values};

/// Ids are `i` and 19 more lowercase letters and digits.
const ID_LENGTH: usize = 20;

/// The one sandbox whose id is, or begins with, what was written.
pub async fn sandbox(client: &Client, written: &str) -> Result<Sandbox, Failure> {
    if written.is_empty() || !written.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Err(Failure::Wrong(format!("{written:?} is no id of a sandbox; `atoll ls` lists them")));
    }
    if written.len() >= ID_LENGTH {
        return Ok(client.sandbox(written));
    }
    let query = ListSandboxes { page_size: Some(1000), ..ListSandboxes::default() };
    let all = client.sandboxes().list(query).map_ok(|sandbox| sandbox.id);
    let found: Vec<String> =
        all.try_filter(|id| std::future::ready(id.starts_with(written))).try_collect().await?;
    one(written, found).map(|id| client.sandbox(id))
}

fn one(written: &str, mut found: Vec<String>) -> Result<String, Failure> {
    match (found.pop(), found.len()) {
        (Some(id), 0) => Ok(id),
        (None, _) => {
            Err(Failure::Wrong(format!("no sandbox's id begins with {written}; `atoll ls -a` lists them")))
        }
        (Some(_), more) => Err(Failure::Wrong(format!(
            "the ids of {} sandboxes begin with {written}; write more of it",
            more + 1
        ))),
    }
}

/// What to ask the server for: a recipe on top of an image, or of a template when there is one of that name.
pub async fn request(
    context: &Context,
    source: Option<&str>,
    recipe: Recipe,
) -> Result<CreateSandbox, Failure> {
    let base = match (recipe.template.as_deref(), source) {
        (Some(template), _) => CreateSandbox::of_template(template),
        (None, Some(source)) if is_template(&context.client, source).await? => {
            CreateSandbox::of_template(source)
        }
        (None, source) => CreateSandbox::of_image(source.unwrap_or_default()),
    };
    fill(base, recipe).map_err(Failure::Wrong)
}

/// References to images have characters that names of templates have not.
async fn is_template(client: &Client, source: &str) -> Result<bool, Failure> {
    if source.is_empty() || !source.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Ok(false);
    }
    match client.template(source, None).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn fill(base: CreateSandbox, recipe: Recipe) -> Result<CreateSandbox, String> {
    if recipe.template_version.is_some() && base.template.is_none() {
        return Err("--template-version needs a template; there is none of that name".into());
    }
    Ok(CreateSandbox {
        template_version: recipe.template_version,
        owner: recipe.owner,
        public: recipe.public.then_some(true),
        cpu: recipe.cpu,
        memory: recipe.memory,
        disk: recipe.disk,
        pids: recipe.pids,
        io: io(recipe.io),
        ttl: recipe.ttl,
        pause_after: recipe.pause_after,
        env: values::environment(&recipe.env, |key| std::env::var(key).ok())?,
        labels: values::pairs(&recipe.label)?,
        network: network(recipe.network),
        user: recipe.user,
        workdir: recipe.workdir,
        ..base
    })
}

fn io(given: crate::cli::IoArgs) -> atoll_client::api::Io {
    atoll_client::api::Io {
        read_rate: given.disk_read_rate,
        write_rate: given.disk_write_rate,
        read_iops: given.disk_read_iops,
        write_iops: given.disk_write_iops,
    }
}

/// What it may reach, when anything was said of that. A list alone goes with the internet.
pub fn network(given: crate::cli::NetworkArgs) -> Option<atoll_client::api::Network> {
    let said = given.network.is_some() || !given.allow.is_empty() || !given.deny.is_empty();
    said.then(|| atoll_client::api::Network {
        mode: given.network.map(Into::into).unwrap_or_default(),
        allow: given.allow,
        deny: given.deny,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_must_be_one_sandboxs_only() {
        assert_eq!(one("i1", vec!["i12".into()]).unwrap(), "i12");
        assert!(one("i1", vec![]).unwrap_err().to_string().contains("no sandbox"));
        assert!(one("i1", vec!["i12".into(), "i13".into()]).unwrap_err().to_string().contains("2 sandboxes"));
    }

    #[test]
    fn a_version_needs_a_template() {
        let recipe = || Recipe { template_version: Some(2), ..Recipe::default() };
        assert!(fill(CreateSandbox::of_image("base"), recipe()).is_err());
        assert_eq!(fill(CreateSandbox::of_template("t"), recipe()).unwrap().template_version, Some(2));
    }
}
