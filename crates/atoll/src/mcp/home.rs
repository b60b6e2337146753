//! The sandbox that is meant when an agent names none: made when it is first needed, and removed when its session ends.

use atoll_client::{
    Client, Error,
    api::{CreateSandbox, Phase},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

/// What sandboxes are made of when nobody says.
const IMAGE: &str = "base";
/// Tells the sandboxes of agents from others.
const LABEL: (&str, &str) = ("made-by", "mcp");
/// How long the removals of all sessions may take in the end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the command line says of it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Made of this image.
    pub image: Option<String>,
    /// Made of this template.
    pub template: Option<String>,
    /// This one, which is there and stays.
    pub sandbox: Option<String>,
    /// It stays when its session ends.
    pub keep: bool,
}

/// A new sandbox, as an agent or the command line asks for it.
pub fn request(image: Option<String>, template: Option<String>) -> CreateSandbox {
    let base = match (image, template) {
        (_, Some(template)) => CreateSandbox::of_template(template),
        (image, None) => CreateSandbox::of_image(image.unwrap_or_else(|| IMAGE.to_owned())),
    };
    let labels = [(LABEL.0.to_owned(), LABEL.1.to_owned())].into();
    CreateSandbox { labels, ..base }
}

/// Gives every session its own.
#[derive(Clone, Debug)]
pub struct Homes {
    client: Client,
    wanted: Arc<Wanted>,
    left: mpsc::UnboundedSender<String>,
}

/// One session's.
#[derive(Debug)]
pub struct Home {
    homes: Homes,
    made: Mutex<Option<String>>,
}

/// Removes what sessions leave.
pub struct Janitor(JoinHandle<()>);

impl Homes {
    /// For the sessions of this process.
    pub fn new(client: Client, wanted: Wanted) -> (Self, Janitor) {
        let (left, mut leaving) = mpsc::unbounded_channel::<String>();
        let remover = client.clone();
        let janitor = tokio::spawn(async move {
            while let Some(id) = leaving.recv().await {
                match remover.sandbox(&id).delete().await {
                    Err(error) if !error.is_not_found() => {
                        tracing::warn!(sandbox = %id, %error, "the session's sandbox stays");
                    }
                    _ => tracing::info!(sandbox = %id, "the session's sandbox is removed"),
                }
            }
        });
        (Self { client, wanted: Arc::new(wanted), left }, Janitor(janitor))
    }

    /// For a session that begins.
    pub fn open(&self) -> Home {
        Home { homes: self.clone(), made: Mutex::default() }
    }

    /// What a new sandbox is made of, unless the agent says.
    pub fn request(&self) -> CreateSandbox {
        request(self.wanted.image.clone(), self.wanted.template.clone())
    }
}

impl Janitor {
    /// Waits for the removals, when nobody can leave anything any more.
    pub async fn finish(self) {
        if tokio::time::timeout(PATIENCE, self.0).await.is_err() {
            tracing::warn!("not every session's sandbox could be removed in time");
        }
    }
}

impl Home {
    /// The session's sandbox, and whether it was made just now.
    pub async fn sandbox(&self) -> Result<(String, bool), Error> {
        if let Some(id) = &self.homes.wanted.sandbox {
            return Ok((id.clone(), false));
        }
        let mut made = self.made.lock().await;
        if let Some(id) = made.as_ref()
            && self.is_there(id).await?
        {
            return Ok((id.clone(), false));
        }
        let id = self.homes.client.sandboxes().create(&self.homes.request()).await?.id;
        *made = Some(id.clone());
        Ok((id, true))
    }

    async fn is_there(&self, id: &str) -> Result<bool, Error> {
        match self.homes.client.sandbox(id).get().await {
            Ok(sandbox) => Ok(!matches!(sandbox.phase, Phase::Failed | Phase::Terminating)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(id) = self.made.get_mut().take().filter(|_| !self.homes.wanted.keep) {
            // Nobody takes it any more only when this process ends without its janitor.
            let _ = self.homes.left.send(id);
        }
    }
}
