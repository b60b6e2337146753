//! The tools. Each says what it does in the comment that agents read, checks what it was given and leaves the rest to the
//! SDK.

use atoll_client::{
    Client, ListSandboxes, Sandbox,
    api::{self, ExecRequest},
    body_of,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt};
use rmcp::{
    RoleServer, ServerHandler,
    handler::server::{router::tool::ToolRouter, wrapper::Parameters},
    model::{CallToolResult, ContentBlock, Implementation, ServerCapabilities, ServerConfig},
    service::RequestContext,
    tool, tool_handler, tool_router,
};
use serde_json::json;
use std::sync::Arc;

use super::{
    bound::bounded,
    folder::Folder,
    home::{self, Home, Homes},
    inputs,
    run::{self, USUAL_TIME},
    trouble::{Trouble, told},
};

const INSTRUCTIONS: &str = "Sandboxes are Linux machines of your own, without access to the user's files. Tools that take \
                            `sandbox` use this session's own when it is absent: it is made at the first use, keeps files \
                            and processes between calls, and is removed when the session ends.";
/// Sandboxes that are listed when nobody says how many.
const USUAL_LIST: usize = 50;
/// Entries of a directory that are told.
const MOST_ENTRIES: usize = 1000;
/// Bytes of a text that are looked at, of which the ends are told.
const MOST_READ: usize = 4 << 20;
/// Bytes of a file that is told in base64.
const MOST_BINARY: usize = 256 << 10;
/// Carries a session's id, over HTTP with clients of protocols that have sessions.
const SESSION: &str = "mcp-session-id";

type Told = Result<Vec<ContentBlock>, Trouble>;

/// The tools of one session.
#[derive(Clone)]
pub struct Tools {
    client: Client,
    homes: Homes,
    /// This session's.
    own: Arc<Home>,
    /// That of all who have no session.
    shared: Arc<Home>,
    folder: Option<Arc<Folder>>,
    router: ToolRouter<Self>,
}

impl Tools {
    /// The tools of the first session; files of this machine are used only below `folder`.
    pub fn new(client: Client, homes: Homes, folder: Option<Arc<Folder>>) -> Self {
        let mut router = Self::tool_router();
        if folder.is_none() {
            router.remove_route("upload_file");
            router.remove_route("download_file");
        }
        let (own, shared) = (Arc::new(homes.open()), Arc::new(homes.open()));
        Self { client, homes, own, shared, folder, router }
    }

    /// The same for another session.
    pub fn of_another_session(&self) -> Self {
        Self { own: Arc::new(self.homes.open()), ..self.clone() }
    }

    /// The sandbox that is meant. If it was made for that, the agent is told.
    async fn sandbox(
        &self,
        named: Option<String>,
        context: &RequestContext<RoleServer>,
    ) -> Result<(Sandbox, Vec<ContentBlock>), Trouble> {
        if let Some(id) = named {
            return Ok((self.client.sandbox(id), Vec::new()));
        }
        let request = context.extensions.get::<http::request::Parts>();
        let sessionless = request.is_some_and(|request| !request.headers.contains_key(SESSION));
        let home = if sessionless { &self.shared } else { &self.own };
        let (id, is_new) = home.sandbox().await.map_err(Trouble::NoSandbox)?;
        let note = is_new.then(|| ContentBlock::text(format!("Sandbox {id} was made for this session.")));
        Ok((self.client.sandbox(id), note.into_iter().collect()))
    }

    fn folder(&self) -> Result<&Arc<Folder>, Trouble> {
        let off = "no directory of this machine may be used: start `atoll mcp` with --files DIR";
        self.folder.as_ref().ok_or_else(|| Trouble::Wrong(off.into()))
    }
}

fn text(text: impl Into<String>) -> Told {
    Ok(vec![ContentBlock::text(text)])
}

fn value(value: &serde_json::Value) -> Told {
    text(serde_json::to_string_pretty(value).unwrap_or_default())
}

fn summary(sandbox: &api::Sandbox) -> serde_json::Value {
    json!({
        "sandbox": sandbox.id, "phase": sandbox.phase, "image": sandbox.image, "template": sandbox.template,
        "created_at": sandbox.created_at.to_string(), "expires_at": sandbox.expires_at.map(|at| at.to_string()),
    })
}

/// Adds what is told to what was told before.
async fn after(mut before: Vec<ContentBlock>, work: impl Future<Output = Told>) -> Told {
    before.extend(work.await?);
    Ok(before)
}

/// Ends work that the agent does not want any more.
async fn unless_cancelled(context: &RequestContext<RoleServer>, work: impl Future<Output = Told>) -> Told {
    tokio::select! {
        told = work => told,
        () = context.ct.cancelled() => Err(Trouble::Cancelled),
    }
}

#[tool_router]
impl Tools {
    /// Makes a sandbox beside this session's own: a Linux machine with files, processes and a network. It stays until it is
    /// deleted, its ttl is over, or it is unused for long.
    #[tool]
    async fn create_sandbox(&self, Parameters(ask): Parameters<inputs::Create>) -> CallToolResult {
        told(self.make(ask).await)
    }

    /// Lists sandboxes, the newest first, with their phase.
    #[tool(annotations(read_only_hint = true))]
    async fn list_sandboxes(&self, Parameters(ask): Parameters<inputs::List>) -> CallToolResult {
        told(self.list(ask).await)
    }

    /// Removes a sandbox with its files and processes.
    #[tool(annotations(destructive_hint = true))]
    async fn delete_sandbox(&self, Parameters(ask): Parameters<inputs::One>) -> CallToolResult {
        let deleted = self.client.sandbox(&ask.sandbox).delete().await;
        told(
            deleted
                .map_err(Trouble::from)
                .and_then(|()| text(format!("Sandbox {} is removed.", ask.sandbox))),
        )
    }

    /// Freezes a sandbox: it uses no CPU, and keeps files, memory and processes. The next use wakes it.
    #[tool]
    async fn pause_sandbox(&self, Parameters(ask): Parameters<inputs::One>) -> CallToolResult {
        let paused = self.client.sandbox(ask.sandbox).pause().await;
        told(paused.map_err(Trouble::from).and_then(|sandbox| value(&summary(&sandbox))))
    }

    /// Wakes a paused sandbox.
    #[tool]
    async fn resume_sandbox(&self, Parameters(ask): Parameters<inputs::One>) -> CallToolResult {
        let resumed = self.client.sandbox(ask.sandbox).resume().await;
        told(resumed.map_err(Trouble::from).and_then(|sandbox| value(&summary(&sandbox))))
    }

    /// Runs code in python, javascript or bash and tells what it wrote, showed or failed with. In a sandbox with a code
    /// interpreter (something that listens on port 49999) variables, imports and functions are kept from one call to the
    /// next, and charts come as pictures. In any other, as those of the image base, each call is a process of its own of
    /// python3 -c, node -e or bash -c, and only files are kept. Long output is cut in the middle, which is said.
    #[tool]
    async fn run_code(
        &self,
        Parameters(ask): Parameters<inputs::Code>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let work = async {
            let (sandbox, note) = self.sandbox(ask.sandbox.clone(), &context).await?;
            after(note, run::code(&sandbox, ask)).await
        };
        told(unless_cancelled(&context, work).await)
    }

    /// Runs a line of shell (sh -c) and tells its exit code, standard output and standard error. It ends after timeout
    /// seconds (60 when absent); leave what shall go on with setsid, nohup and &. Long output is cut in the middle, which is
    /// said.
    #[tool]
    async fn exec_command(
        &self,
        Parameters(ask): Parameters<inputs::Exec>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let request = ExecRequest {
            timeout: Some(ask.timeout.unwrap_or(USUAL_TIME).into()),
            env: ask.env,
            workdir: ask.cwd,
            user: ask.user,
            ..ExecRequest::of(["sh", "-c", &ask.command])
        };
        let work = async {
            let (sandbox, note) = self.sandbox(ask.sandbox, &context).await?;
            after(note, run::command(&sandbox, &request)).await
        };
        told(unless_cancelled(&context, work).await)
    }

    /// Reads a file of a sandbox, as text or base64. A long text is cut in the middle, which is said.
    #[tool(annotations(read_only_hint = true))]
    async fn read_file(
        &self,
        Parameters(ask): Parameters<inputs::Read>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let work = async {
            let (sandbox, note) = self.sandbox(ask.sandbox, &context).await?;
            after(note, read(&sandbox, &ask.path, ask.encoding)).await
        };
        told(unless_cancelled(&context, work).await)
    }

    /// Writes a file of a sandbox, whole; directories on the way are made.
    #[tool]
    async fn write_file(
        &self,
        Parameters(ask): Parameters<inputs::Write>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let work = async {
            let bytes = match ask.encoding {
                inputs::Encoding::Text => ask.content.into_bytes(),
                inputs::Encoding::Base64 => STANDARD
                    .decode(ask.content.trim())
                    .map_err(|error| Trouble::Wrong(format!("content is no base64: {error}")))?,
            };
            let (sandbox, note) = self.sandbox(ask.sandbox, &context).await?;
            after(note, async {
                let done = sandbox.files().upload(&ask.path, bytes).await?;
                text(format!("{} has {} bytes.", done.path, done.size))
            })
            .await
        };
        told(work.await)
    }

    /// Lists what is in a directory of a sandbox.
    #[tool(annotations(read_only_hint = true))]
    async fn list_files(
        &self,
        Parameters(ask): Parameters<inputs::Folder>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let work = async {
            let (sandbox, note) = self.sandbox(ask.sandbox, &context).await?;
            after(note, entries(&sandbox, &ask.path, ask.depth.unwrap_or(1))).await
        };
        told(work.await)
    }

    /// Copies a file of the machine that this server runs on into a sandbox, of any size. Only the directory that the server
    /// was given can be used there.
    #[tool]
    async fn upload_file(
        &self,
        Parameters(ask): Parameters<inputs::Copy>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let work = async {
            let file =
                self.folder()?.read(&ask.local_path).map_err(|source| local(&ask.local_path, source))?;
            let (sandbox, note) = self.sandbox(ask.sandbox, &context).await?;
            after(note, async {
                let body = body_of(tokio::fs::File::from_std(file));
                let done = sandbox.files().upload(&ask.path, body).await?;
                text(format!("{} has {} bytes.", done.path, done.size))
            })
            .await
        };
        told(unless_cancelled(&context, work).await)
    }

    /// Copies a file of a sandbox to the machine that this server runs on, of any size. Only the directory that the server was
    /// given can be used there; a file that is there already is replaced.
    #[tool]
    async fn download_file(
        &self,
        Parameters(ask): Parameters<inputs::Copy>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let work = async {
            let (sandbox, note) = self.sandbox(ask.sandbox, &context).await?;
            let folder = self.folder()?;
            after(note, async {
                let download = sandbox.files().download(&ask.path).await?;
                let failed = |source| local(&ask.local_path, source);
                let (file, unfinished) = folder.write(&ask.local_path).map_err(failed)?;
                let size = download.write_to(&mut tokio::fs::File::from_std(file)).await?;
                unfinished.keep().map_err(failed)?;
                text(format!("{} has {size} bytes.", ask.local_path))
            })
            .await
        };
        told(unless_cancelled(&context, work).await)
    }

    /// Tells the web address of a port of a sandbox, with a link that opens it to whoever has it until it ends. Something must
    /// listen on that port, on 0.0.0.0 or localhost.
    #[tool]
    async fn port_url(
        &self,
        Parameters(ask): Parameters<inputs::Port>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let work = async {
            let (sandbox, note) = self.sandbox(ask.sandbox, &context).await?;
            after(note, async {
                let link = sandbox.link(api::Port::Number(ask.port.into()), ask.expires_in).await?;
                let url = link.url.split("/?").next().unwrap_or_default();
                value(&json!({"url": url, "link": link.url, "expires_at": link.expires_at.to_string()}))
            })
            .await
        };
        told(work.await)
    }
}

impl Tools {
    async fn make(&self, ask: inputs::Create) -> Told {
        if ask.image.is_some() && ask.template.is_some() {
            return Err(Trouble::Wrong("name an image or a template, not both".into()));
        }
        let base = match (ask.image, ask.template) {
            (None, None) => self.homes.request(),
            (image, template) => home::request(image, template),
        };
        let (cpu, memory, env) = (ask.cpu, ask.memory, ask.env);
        let request = api::CreateSandbox { cpu, memory, env, ttl: ask.ttl.map(Some), ..base };
        value(&summary(&self.client.sandboxes().create(&request).await.map_err(Trouble::NoSandbox)?))
    }

    async fn list(&self, ask: inputs::List) -> Told {
        let limit = ask.limit.unwrap_or(USUAL_LIST);
        let query = ListSandboxes { page_size: Some(limit.clamp(1, 1000)), ..ListSandboxes::default() };
        let all = self.client.sandboxes().list(query).take(limit).map_ok(|sandbox| summary(&sandbox));
        let all: Vec<serde_json::Value> = all.try_collect().await?;
        value(&all.into())
    }
}

fn local(path: &str, source: std::io::Error) -> Trouble {
    Trouble::Local { path: path.to_owned(), source }
}

/// A file's content, as far as an agent can take it.
async fn read(sandbox: &Sandbox, path: &str, encoding: inputs::Encoding) -> Told {
    let most = if encoding == inputs::Encoding::Text { MOST_READ } else { MOST_BINARY };
    let mut stream = sandbox.files().download(path).await?.into_stream();
    let mut bytes = Vec::new();
    while bytes.len() <= most
        && let Some(piece) = stream.next().await
    {
        bytes.extend_from_slice(&piece?);
    }
    let is_whole = bytes.len() <= most;
    bytes.truncate(most);
    match encoding {
        inputs::Encoding::Base64 if is_whole => text(STANDARD.encode(bytes)),
        inputs::Encoding::Base64 => Err(Trouble::Wrong(format!(
            "{path} has more than {most} bytes: use download_file, or read a part of it with exec_command"
        ))),
        inputs::Encoding::Text => as_text(path, &bytes, is_whole),
    }
}

fn as_text(path: &str, bytes: &[u8], is_whole: bool) -> Told {
    let content = match std::str::from_utf8(bytes) {
        Ok(content) => content,
        // A character may have been cut.
        Err(error) if !is_whole && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => {
            return Err(Trouble::Wrong(format!("{path} is no UTF-8 text: read it with encoding base64")));
        }
    };
    let more = if is_whole {
        ""
    } else {
        "\n[... the rest of the file is cut; read parts of it with exec_command ...]"
    };
    text(bounded(content) + more)
}

async fn entries(sandbox: &Sandbox, path: &str, depth: u32) -> Told {
    let all = sandbox.files().list(path, depth).await?;
    let line = |it: &api::FileInfo| {
        let kind = match it.kind {
            api::FileKind::Directory => "directory".to_owned(),
            api::FileKind::File => format!("{} bytes", it.size),
            api::FileKind::Symlink => format!("link to {}", it.symlink_target.as_deref().unwrap_or("?")),
            api::FileKind::Other => "other".to_owned(),
        };
        format!("{}\t{kind}\n", it.path)
    };
    let mut lines: String = all.iter().take(MOST_ENTRIES).map(line).collect();
    if all.len() > MOST_ENTRIES {
        lines.push_str(&format!("[... {} more entries cut here ...]\n", all.len() - MOST_ENTRIES));
    }
    text(if lines.is_empty() { format!("{path} is empty.") } else { lines })
}

#[tool_handler(router = self.router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("atoll", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_may_end_inside_a_character_only_where_it_was_cut() {
        let cut = &"aé".as_bytes()[..2];
        assert!(as_text("f", cut, true).is_err() && as_text("f", b"\xff\xff", false).is_err());
        let told = serde_json::to_string(&as_text("f", cut, false).unwrap()).unwrap();
        assert!(told.contains("a\\n[... the rest"), "{told}");
    }

    #[test]
    fn every_tool_is_described_and_typed() {
        let tools = Tools::tool_router().list_all();
        assert_eq!(tools.len(), 13);
        for tool in tools {
            assert!(tool.description.is_some_and(|text| text.len() > 20), "{}", tool.name);
            let schema = serde_json::to_value(&tool.input_schema).unwrap();
            let properties = schema["properties"].as_object().unwrap();
            assert!(
                properties.values().all(|property| property.to_string().contains("description")),
                "{schema}"
            );
        }
    }
}
