//! What each step does in the sandbox of a build.

use atoll_core::build::Level;
use std::time::Duration;

use super::{
    Failure,
    journal::{Journal, Lines},
    plan::{Context, Copy, Step, USER},
    spool::Spool,
    stage::{Stage, ended, shell},
};
use crate::services::{
    error::ServiceError,
    exec::{Command, Happened},
};

/// `at PATH BASE USER`: a path as a step means it; relative ones start at the directory of the steps before.
const AT: &str = r#"
home() { found=$(grep "^${1%%:*}:" /etc/passwd | cut -d: -f6); printf '%s' "${found:-/}"; }
at() {
    case $1 in
        /*) printf '%s' "$1" ;;
        "~") home "$3" ;;
        "~/"*) printf '%s/%s' "$(home "$3")" "${1#??}" ;;
        *) printf '%s/%s' "$(at "$2" / "$3")" "$1" ;;
    esac
}
"#;

/// DIRECTORY BASE USER: makes the directory, as the user's own where it is new, and says where it is.
const WORKDIR: &str = r#"
directory=$(at "$1" "$2" "$3")
if [ ! -d "$directory" ]; then mkdir -p "$directory" && chown "$3" "$directory" || exit 1; fi
cd "$directory" && pwd
"#;

/// NAME SUDO: makes a user where there is none, and lets it be root where that is asked for.
const MAKE_USER: &str = r#"
if ! id -u "$1" >/dev/null 2>&1; then
    if command -v useradd >/dev/null 2>&1; then
        useradd --create-home --shell "$(command -v bash || echo /bin/sh)" "$1" || exit 1
    else
        adduser -D "$1" || exit 1
    fi
fi
if [ "$2" = true ]; then
    mkdir -p /etc/sudoers.d && echo "$1 ALL=(ALL:ALL) NOPASSWD: ALL" >"/etc/sudoers.d/$1" &&
        chmod 0440 "/etc/sudoers.d/$1"
fi
"#;

/// UNPACKED SOURCE TARGET BASE USER OWNER MODE: puts files in their place. What is in a directory goes into the target, one
/// file becomes the target, or goes into it where it is a directory.
const COPY: &str = r#"
unpacked=$1 source=$2 owner=$6 mode=$7
target=$(at "$3" "$4" "$5")
case $3 in */) target=${target%/}/ ;; esac
from=$unpacked/$source
if [ "$source" = . ]; then from=$unpacked; fi
if [ ! -e "$from" ] && [ ! -L "$from" ]; then
    echo "$source is not among the files that were uploaded" >&2
    exit 1
fi
chown -R -h "$owner" "$from" || exit 1
if [ -n "$mode" ] && [ ! -L "$from" ]; then chmod -R "$mode" "$from" || exit 1; fi
folder() { if [ ! -d "$1" ]; then mkdir -p "$1" && chown "$owner" "$1"; fi; }
if [ -d "$from" ] && [ ! -L "$from" ]; then
    folder "$target" || exit 1
    for entry in "$from"/* "$from"/.[!.]* "$from"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then cp -a "$entry" "$target/" || exit 1; fi
    done
else
    case $target in
        */) folder "$target" || exit 1 ;;
        *) mkdir -p "$(dirname "$target")" || exit 1 ;;
    esac
    cp -a "$from" "$target" || exit 1
fi
rm -rf "$unpacked"
"#;

/// What a step has beside the sandbox.
pub struct Hands<'a> {
    pub journal: &'a Journal,
    /// What the log calls the step, and people.
    pub step: &'a str,
    pub prefix: &'a str,
    pub spool: &'a Spool,
    pub tenant: &'a str,
    /// How long a command may take.
    pub limit: Duration,
    /// A name that is not taken inside.
    pub fresh: &'a str,
}

/// Does one step, and gives what commands run with afterwards.
pub async fn perform(
    stage: &Stage,
    step: &Step,
    before: &Context,
    hands: &Hands<'_>,
) -> Result<Context, Failure> {
    let mut after = before.clone();
    match step {
        Step::Run { command, user } => run(stage, command, user.as_deref(), before, hands).await?,
        Step::Copy(copy) => self::copy(stage, copy, before, hands).await?,
        Step::Env(pairs) => {
            for (name, value) in pairs {
                let value = stage.expanded(value, &after).await?;
                after.env.insert(name.clone(), value);
            }
        }
        Step::Workdir(directory) => after.workdir = workdir(stage, directory, before).await?,
        Step::User { name, sudo } => {
            let name = stage.expanded(name, before).await?;
            after.user = user(stage, &name, *sudo).await?;
        }
    }
    Ok(after)
}

/// Makes the user that steps run as where nobody says otherwise.
pub async fn prepare(stage: &Stage) -> Result<Context, Failure> {
    let known = stage.script("id -u \"$1\" >/dev/null 2>&1", &[USER]).await.is_ok();
    if !known {
        user(stage, USER, true).await?;
    }
    Ok(Context { user: USER.into(), workdir: "~".into(), ..Context::default() })
}

async fn run(
    stage: &Stage,
    line: &str,
    user: Option<&str>,
    context: &Context,
    hands: &Hands<'_>,
) -> Result<(), Failure> {
    let command = Command {
        argv: shell(line, context),
        env: context.env.clone(),
        workdir: Some(context.workdir.clone()),
        user: Some(user.unwrap_or(&context.user).to_owned()),
        timeout: Some(hands.limit.as_secs_f64().max(1.0)),
        ..Command::default()
    };
    let failed = |why: &str| Failure::new(format!("failed to run command '{line}': {why}"));
    let (mut out, mut err) = (Lines::default(), Lines::default());
    let (told, wrong) = (format!("[{}] [stdout]: ", hands.prefix), format!("[{}] [stderr]: ", hands.prefix));
    let heard = |happened: &Happened| match happened {
        Happened::Stdout(piece) => hands.journal.lines(Level::Info, hands.step, &told, &mut out, piece),
        Happened::Stderr(piece) => hands.journal.lines(Level::Error, hands.step, &wrong, &mut err, piece),
        Happened::Started { .. } | Happened::Ended(_) => {}
    };
    let exit = stage.run(command, heard).await.map_err(|error| failed(&not_run(error)))?;
    hands.journal.last_line(Level::Info, hands.step, &told, &mut out);
    hands.journal.last_line(Level::Error, hands.step, &wrong, &mut err);
    if exit.exit_code == 0 { Ok(()) } else { Err(failed(&ended(&exit))) }
}

/// Why a command did not run. Of a user that is not there, clients of other people's builders look for these words.
fn not_run(error: ServiceError) -> String {
    match error {
        ServiceError::Invalid(invalid) if invalid.field == "user" => {
            format!("command failed: unauthenticated: {}", invalid.problem)
        }
        other => Failure::from(other).message,
    }
}

async fn workdir(stage: &Stage, directory: &str, context: &Context) -> Result<String, Failure> {
    let directory = stage.expanded(directory, context).await?;
    let args = [directory.as_str(), &context.workdir, &context.user];
    let made = stage.script(&format!("{AT}{WORKDIR}"), &args).await;
    made.map(|path| path.trim_end_matches('\n').to_owned())
}

async fn user(stage: &Stage, name: &str, sudo: bool) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with('-') || !name.chars().all(plain) {
        return Err(Failure::new(format!("{name:?} is not the name of a user")));
    }
    let alone = name.split(':').next().unwrap_or(name);
    let sudo = if sudo { "true" } else { "false" };
    stage.script(MAKE_USER, &[alone, sudo]).await?;
    Ok(name.to_owned())
}

async fn copy(stage: &Stage, copy: &Copy, context: &Context, hands: &Hands<'_>) -> Result<(), Failure> {
    let archive = hands.spool.open(hands.tenant, &copy.files).await;
    let missing =
        |_| Failure::new("the files of this step are not here (any more); build again to upload them");
    let unpacked = format!("/.atoll-copy-{}", hands.fresh);
    stage.unpack(archive.map_err(missing)?, &unpacked).await?;
    let owner = copy.owner.as_deref().unwrap_or(&context.user);
    // Without a group, the user's own.
    let owner = if owner.contains(':') { owner.to_owned() } else { format!("{owner}:") };
    let mode = copy.mode.as_deref().unwrap_or_default();
    let args = [&unpacked, &copy.source, &copy.target, &context.workdir, &context.user, &owner, mode];
    stage.script(&format!("{AT}{COPY}"), &args).await.map(drop)
}
