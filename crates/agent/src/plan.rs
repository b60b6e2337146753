//! What it takes to start a command, decided before anything is done: arguments, environment, places to look for the
//! program. Pure.

use std::collections::BTreeMap;
use std::ffi::CString;

use crate::users::Account;

/// Where programs are looked for when nothing says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a command cannot even be tried.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the command is empty")]
    Empty,
    #[error("{0} contains a zero byte")]
    ZeroByte(&'static str),
    #[error("'{0}' is not a name for an environment variable")]
    VariableName(String),
}

/// Everything a new process needs, ready to be used between fork and exec.
#[derive(Debug)]
pub struct Plan {
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// Files to try, in order.
    pub candidates: Vec<CString>,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub no_new_privileges: bool,
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Command {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: String,
    pub terminal: bool,
}

/// Makes the plan of a command for a user; `sandbox_env` is below the command's own environment.
pub fn plan(
    command: &Command,
    account: &Account,
    sandbox_env: &BTreeMap<String, String>,
    allow_sudo: bool,
) -> Result<Plan, PlanError> {
    let program = command.argv.first().filter(|program| !program.is_empty()).ok_or(PlanError::Empty)?;
    let env = environment(command, account, sandbox_env);
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let candidates = candidates(program, path).into_iter().map(|file| c_string(file, "the command"));
    Ok(Plan {
        candidates: candidates.collect::<Result<_, _>>()?,
        argv: command
            .argv
            .iter()
            .map(|part| c_string(part.clone(), "the command"))
            .collect::<Result<_, _>>()?,
        envp: env.iter().map(|(name, value)| variable(name, value)).collect::<Result<_, _>>()?,
        cwd: c_string(command.cwd.clone(), "the working directory")?,
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        no_new_privileges: !allow_sudo,
    })
}

fn environment(
    command: &Command,
    account: &Account,
    sandbox_env: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), account.home.clone()),
        ("USER".to_owned(), account.name.clone()),
        ("LOGNAME".to_owned(), account.name.clone()),
    ]);
    if command.terminal {
        env.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    let given = sandbox_env.iter().chain(&command.env);
    env.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    env
}

/// The files that a program's name may mean, as a shell looks them up.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let directory = |entry: &str| if entry.is_empty() { ".".to_owned() } else { entry.to_owned() };
    path.split(':').map(|entry| format!("{}/{program}", directory(entry))).collect()
}

fn variable(name: &str, value: &str) -> Result<CString, PlanError> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(PlanError::VariableName(name.to_owned()));
    }
    c_string(format!("{name}={value}"), "an environment variable")
}

fn c_string(text: String, what: &'static str) -> Result<CString, PlanError> {
    CString::new(text).map_err(|_| PlanError::ZeroByte(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account { name: "user".into(), uid: 1000, gid: 1000, groups: vec![1000], home: "/home/user".into() }
    }

    fn command(argv: &[&str], env: &[(&str, &str)]) -> Command {
        Command {
            argv: argv.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            cwd: "/".into(),
            terminal: false,
        }
    }

    fn text(parts: &[CString]) -> Vec<&str> {
        parts.iter().map(|part| part.to_str().unwrap()).collect()
    }

    #[test]
    fn the_environment_is_layered() {
        let sandbox = BTreeMap::from([("A".into(), "sandbox".into()), ("B".into(), "sandbox".into())]);
        let plan =
            plan(&command(&["env"], &[("B", "call"), ("HOME", "/x")]), &account(), &sandbox, true).unwrap();
        let expected =
            ["A=sandbox", "B=call", "HOME=/x", "LOGNAME=user", &format!("PATH={DEFAULT_PATH}"), "USER=user"];
        assert_eq!(text(&plan.envp), expected);
        assert!(!plan.no_new_privileges);
    }

    #[test]
    fn programs_are_looked_up_in_the_path_of_the_command() {
        let path = |program: &str, path: &str| {
            let command = command(&[program], &[("PATH", path)]);
            text(&plan(&command, &account(), &BTreeMap::new(), false).unwrap().candidates)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(path("ls", "/a:/b"), ["/a/ls", "/b/ls"]);
        assert_eq!(path("ls", ":/b"), ["./ls", "/b/ls"]);
        assert_eq!(path("/bin/ls", "/a"), ["/bin/ls"]);
        assert_eq!(path("./ls", "/a"), ["./ls"]);
    }

    #[test]
    fn impossible_commands_are_refused() {
        let fails = |command: Command| plan(&command, &account(), &BTreeMap::new(), false).unwrap_err();
        assert_eq!(fails(command(&[], &[])), PlanError::Empty);
        assert_eq!(fails(command(&[""], &[])), PlanError::Empty);
        assert_eq!(fails(command(&["a\0b"], &[])), PlanError::ZeroByte("the command"));
        assert_eq!(fails(command(&["a"], &[("X=Y", "1")])), PlanError::VariableName("X=Y".into()));
        assert_eq!(fails(command(&["a"], &[("X", "\0")])), PlanError::ZeroByte("an environment variable"));
    }
}
