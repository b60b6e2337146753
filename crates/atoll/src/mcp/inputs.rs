//! What agents may say to each tool. The comments are the descriptions that agents read.

use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use std::collections::BTreeMap;

/// create_sandbox
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Image reference, e.g. base or python:3.11-slim. Either this or template; the server's default when both are absent.
    pub image: Option<String>,
    /// Name of a template.
    pub template: Option<String>,
    /// CPU limit, e.g. 500m or 2.
    pub cpu: Option<String>,
    /// Memory limit, e.g. 512Mi.
    pub memory: Option<String>,
    /// Environment of every command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds after which it is removed; absent: when it is deleted, or long unused.
    #[schemars(range(min = 1))]
    pub ttl: Option<i64>,
}

/// list_sandboxes
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// At most so many, the newest first; 50 when absent.
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<usize>,
}

/// delete_sandbox, pause_sandbox, resume_sandbox
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct One {
    /// Id of the sandbox.
    pub sandbox: String,
}

/// A language that code can be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Python 3.
    #[default]
    Python,
    /// JavaScript, on Node.
    JavaScript,
    /// Bash.
    Bash,
}

/// run_code
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// The code.
    pub code: String,
    /// Its language; python when absent.
    #[serde(default)]
    pub language: Language,
    /// Seconds after which it is ended; 60 when absent.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout: Option<u32>,
    /// Id of the sandbox; this session's own when absent.
    pub sandbox: Option<String>,
}

/// exec_command
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// A line of shell, run by sh -c.
    pub command: String,
    /// Directory to run it in; the sandbox's default when absent.
    pub cwd: Option<String>,
    /// Added to its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds after which it is killed with its process group; 60 when absent.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout: Option<u32>,
    /// User to run it as; the sandbox's default when absent.
    pub user: Option<String>,
    /// Id of the sandbox; this session's own when absent.
    pub sandbox: Option<String>,
}

/// How a file's content is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// UTF-8.
    #[default]
    Text,
    /// Base64, for any bytes.
    Base64,
}

/// read_file
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// Path in the sandbox.
    pub path: String,
    /// How it is to be told; text when absent.
    #[serde(default)]
    pub encoding: Encoding,
    /// Id of the sandbox; this session's own when absent.
    pub sandbox: Option<String>,
}

/// write_file
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Path in the sandbox; directories on the way are made.
    pub path: String,
    /// The whole content.
    pub content: String,
    /// How the content is written; text when absent.
    #[serde(default)]
    pub encoding: Encoding,
    /// Id of the sandbox; this session's own when absent.
    pub sandbox: Option<String>,
}

/// list_files
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// Directory in the sandbox.
    pub path: String,
    /// Levels below it; 1 when absent.
    #[schemars(range(min = 1, max = 20))]
    pub depth: Option<u32>,
    /// Id of the sandbox; this session's own when absent.
    pub sandbox: Option<String>,
}

/// upload_file, download_file
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// Path on this server's machine, in the directory that it may use.
    pub local_path: String,
    /// Path in the sandbox.
    pub path: String,
    /// Id of the sandbox; this session's own when absent.
    pub sandbox: Option<String>,
}

/// port_url
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Number of the port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Seconds until the link ends: at most 2592000, which is 30 days, and 3600 when absent.
    #[schemars(range(min = 1, max = 2_592_000))]
    pub expires_in: Option<u64>,
    /// Id of the sandbox; this session's own when absent.
    pub sandbox: Option<String>,
}
