//! The Rust SDK: typed, async, streaming. It knows the server's HTTP API and nothing of what is behind it; it reads no
//! environment and no file.
//!
//! ```no_run
//! use atoll_client::{Client, Config, api::{CreateSandbox, ExecRequest}};
//!
//! # async fn example() -> Result<(), atoll_client::Error> {
//! let client = Client::new(Config::new("http://127.0.0.1:8080").api_key("e2b_…"))?;
//! let made = client.sandboxes().create(&CreateSandbox::of_image("base")).await?;
//! let sandbox = client.sandbox(made.id);
//! let done = sandbox.exec(&ExecRequest::of(["python3", "-c", "print('hello')"])).await?;
//! assert_eq!((done.exit.exit_code, done.stdout.as_str()), (0, "hello\n"));
//! sandbox.delete().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Files of any size are streamed, and so is everything that takes long:
//!
//! ```no_run
//! use atoll_client::{Client, Error, ListSandboxes, api::{CreateEvent, CreateSandbox}, body_of};
//! use futures::{StreamExt, TryStreamExt};
//!
//! # async fn example(client: Client) -> Result<(), Error> {
//! let mut steps = client.sandboxes().create_stream(&CreateSandbox::of_image("python:3.11-slim")).await?;
//! while let Some(step) = steps.next().await {
//!     match step? {
//!         CreateEvent::Pulling { percent } => println!("pulling {percent}%"),
//!         CreateEvent::Ready { sandbox } => println!("{} runs", sandbox.id),
//!         CreateEvent::Failed { error } => return Err(Error::from_event(error)),
//!         _ => {}
//!     }
//! }
//! let all: Vec<_> = client.sandboxes().list(ListSandboxes::default()).try_collect().await?;
//! let files = client.sandbox(&all[0].id).files();
//! files.upload("/home/user/big", body_of(tokio::fs::File::open("big").await?)).await?;
//! files.download("/etc/hostname").await?.write_to(&mut tokio::io::stdout()).await?;
//! # Ok(())
//! # }
//! ```

mod client;
mod code;
mod error;
mod exec;
mod files;
mod interactive;
mod ports;
mod sandboxes;
mod snapshots;
mod sse;
mod system;

pub use atoll_proto::api;
pub use client::{Client, Config};
pub use code::{CodeEvent, RunCode};
pub use error::Error;
pub use files::{Download, Files, body_of};
pub use interactive::{Exit, Input, Output, Outputs};
pub use ports::SandboxPort;
pub use reqwest::{Body, Method, Url};
pub use sandboxes::{ListSandboxes, Sandbox, Sandboxes};
pub use snapshots::ListSnapshots;
