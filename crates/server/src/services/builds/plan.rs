//! What a build is to do: its steps, and the key of each in the cache of layers. Pure: it knows no sandbox.

use atoll_core::{error::Invalid, image::RegistryLogin, template::check_env};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The image that clients name who name none, and what stands for it here.
const THEIR_BASE: &str = "e2bdev/base";
const OUR_BASE: &str = "base";
/// Whose sandbox it is where nobody says otherwise. It is made where an image lacks it.
pub const USER: &str = "user";
/// Most steps.
const MOST_STEPS: usize = 1000;

/// What a caller wants to be built.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub from_image: Option<String>,
    pub from_template: Option<String>,
    pub login: Option<RegistryLogin>,
    /// Nothing is taken from the cache.
    pub force: bool,
    pub steps: Vec<WantedStep>,
    pub start: Option<String>,
    pub ready: Option<String>,
}

/// A step as a caller writes it.
#[derive(Clone, Debug, Default)]
pub struct WantedStep {
    pub kind: String,
    pub args: Vec<String>,
    pub files: Option<String>,
    pub force: bool,
}

/// A build that can begin.
#[derive(Clone, Debug)]
pub struct Plan {
    pub from: From,
    pub force: bool,
    pub steps: Vec<Planned>,
    pub start: Option<String>,
    pub ready: Option<String>,
}

/// What a build begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Image { reference: String, login: Option<RegistryLogin> },
    Template(String),
}

/// A step, and what it is called.
#[derive(Clone, Debug)]
pub struct Planned {
    pub step: Step,
    /// Not from the cache, nor what follows.
    pub force: bool,
    /// As people read it.
    pub title: String,
    /// What tells it from others, without what came before.
    parts: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Run { command: String, user: Option<String> },
    Copy(Copy),
    Env(Vec<(String, String)>),
    Workdir(String),
    User { name: String, sudo: bool },
}

/// Files into the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where in the archive: the part of the source before any pattern.
    pub source: String,
    pub target: String,
    /// `user` or `user:group`.
    pub owner: Option<String>,
    pub mode: Option<String>,
    /// Hash by which the archive was uploaded.
    pub files: String,
}

/// How commands run after the steps so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub env: BTreeMap<String, String>,
    pub user: String,
    pub workdir: String,
}

impl Plan {
    /// Checks everything that can be checked before a sandbox is there.
    pub fn new(wanted: Wanted) -> Result<Self, Invalid> {
        let Wanted { from_image, from_template, login, force, steps, start, ready } = wanted;
        let from = match (from_image, from_template) {
            (Some(_), Some(_)) => {
                return Err(Invalid::new("fromImage", "goes without `fromTemplate`; choose one"));
            }
            (None, Some(template)) => From::Template(template),
            (image, None) => From::Image { reference: ours(image), login },
        };
        if steps.len() > MOST_STEPS {
            return Err(Invalid::new(
                "steps",
                format!("there are more than {MOST_STEPS}; put some together"),
            ));
        }
        let planned = steps.into_iter().enumerate().map(|(n, step)| Planned::new(n, step));
        let text = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        Ok(Self {
            from,
            force,
            steps: planned.collect::<Result<_, _>>()?,
            start: text(start),
            ready: text(ready),
        })
    }

    /// Hashes of the archives that it needs, with the field that names each.
    pub fn files(&self) -> impl Iterator<Item = (String, &str)> {
        self.steps.iter().enumerate().filter_map(|(n, planned)| match &planned.step {
            Step::Copy(copy) => Some((format!("steps[{n}].filesHash"), copy.files.as_str())),
            _ => None,
        })
    }
}

/// An image by the name that we know it by.
fn ours(image: Option<String>) -> String {
    let image = image.unwrap_or_else(|| THEIR_BASE.to_owned());
    let name = image.strip_prefix("docker.io/").unwrap_or(&image);
    let is_theirs = name == THEIR_BASE || name == format!("{THEIR_BASE}:latest");
    if is_theirs { OUR_BASE.to_owned() } else { image }
}

impl Planned {
    fn new(number: usize, wanted: WantedStep) -> Result<Self, Invalid> {
        let field = |name: &str| format!("steps[{number}].{name}");
        let kind = wanted.kind.to_uppercase();
        let title = std::iter::once(kind.as_str()).chain(wanted.args.iter().map(String::as_str));
        let title = title.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        let mut parts = vec![kind.clone()];
        parts.extend(wanted.args.iter().cloned());
        parts.extend(wanted.files.iter().cloned());
        let args = wanted.args;
        let few = |what: &str| Invalid::new(field("args"), format!("{kind} needs {what}"));
        let arg = |n: usize| args.get(n).filter(|arg| !arg.is_empty()).cloned();
        let step = match kind.as_str() {
            "RUN" => Step::Run { command: arg(0).ok_or_else(|| few("a command"))?, user: arg(1) },
            "WORKDIR" => Step::Workdir(arg(0).ok_or_else(|| few("a directory"))?),
            "USER" => Step::User {
                name: arg(0).ok_or_else(|| few("the name of a user"))?,
                sudo: args.get(1).is_some_and(|sudo| sudo == "true"),
            },
            "ENV" | "ARG" => Step::Env(pairs(&args, &field("args"))?),
            "COPY" | "ADD" => {
                let files = wanted.files.ok_or_else(|| {
                    Invalid::new(field("filesHash"), "is needed: the hash by which the files were uploaded")
                })?;
                check_files_hash(&field("filesHash"), &files)?;
                let (source, target) = arg(0).zip(arg(1)).ok_or_else(|| few("a source and a target"))?;
                let source =
                    fixed_part(&source).ok_or_else(|| few("a source inside of what was uploaded"))?;
                Step::Copy(Copy { source, target, owner: arg(2), mode: mode(arg(3), &field("args"))?, files })
            }
            _ => {
                let known = "is RUN, COPY, ADD, ENV, ARG, WORKDIR or USER";
                return Err(Invalid::new(
                    field("type"),
                    format!("{:?} is not known; it {known}", wanted.kind),
                ));
            }
        };
        Ok(Self { step, force: wanted.force, title, parts })
    }

    /// Its key in the cache, on top of `below`.
    pub fn key(&self, below: &str) -> String {
        key(std::iter::once(below).chain(self.parts.iter().map(String::as_str)))
    }
}

/// A key of parts: each part's length goes before it, so that moving a letter from one to the next makes another key.
pub fn key<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

/// Refuses what is no hash of an archive: it becomes the name of a file.
pub fn check_files_hash(field: &str, hash: &str) -> Result<(), Invalid> {
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    if hash.len() == 64 && hash.bytes().all(plain) {
        return Ok(());
    }
    Err(Invalid::new(field, "is 64 lowercase hex digits"))
}

fn pairs(args: &[String], field: &str) -> Result<Vec<(String, String)>, Invalid> {
    if args.is_empty() || !args.len().is_multiple_of(2) {
        return Err(Invalid::new(field, "ENV needs names and values in turn"));
    }
    let pairs: Vec<_> = args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    check_env(field, &pairs.iter().cloned().collect())?;
    Ok(pairs)
}

fn mode(text: Option<String>, field: &str) -> Result<Option<String>, Invalid> {
    let octal =
        |text: &String| (3..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match text {
        Some(text) if !octal(&text) => {
            Err(Invalid::new(field, format!("{text:?} is no mode; write it as 0644 or 755")))
        }
        text => Ok(text),
    }
}

/// The part of a pattern before any wildcard, by whole names; `.` where there is none, nothing where it leads out.
fn fixed_part(pattern: &str) -> Option<String> {
    let plain = |part: &&str| !part.contains(['*', '?', '[', '{']);
    let mut fixed: Vec<&str> = Vec::new();
    for part in pattern.split('/').take_while(plain) {
        match part {
            "" | "." => {}
            ".." => drop(fixed.pop()?),
            part => fixed.push(part),
        }
    }
    Some(if fixed.is_empty() { ".".to_owned() } else { fixed.join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn step(kind: &str, args: &[&str]) -> WantedStep {
        let files = matches!(kind, "COPY").then(|| FILES.to_owned());
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        WantedStep { kind: kind.into(), args, files, force: false }
    }

    fn plan(steps: Vec<WantedStep>) -> Result<Plan, Invalid> {
        Plan::new(Wanted { steps, ..Wanted::default() })
    }

    fn planned(kind: &str, args: &[&str]) -> Planned {
        plan(vec![step(kind, args)]).unwrap().steps.remove(0)
    }

    #[test]
    fn steps_are_read() {
        let run = |command: &str, user: Option<&str>| Step::Run {
            command: command.into(),
            user: user.map(str::to_owned),
        };
        assert_eq!(planned("run", &["ls"]).step, run("ls", None));
        assert_eq!(planned("RUN", &["ls", "root"]).step, run("ls", Some("root")));
        assert_eq!(planned("USER", &["bob", "true"]).step, Step::User { name: "bob".into(), sudo: true });
        let env = Step::Env(vec![("A".into(), "1".into()), ("B".into(), String::new())]);
        assert_eq!(planned("ENV", &["A", "1", "B", ""]).step, env);
        let Step::Copy(copy) = planned("COPY", &["src/*.txt", "/app/", "", "0755"]).step else {
            unreachable!("a copy is one")
        };
        assert_eq!((copy.source.as_str(), copy.owner, copy.mode.as_deref()), ("src", None, Some("0755")));
        assert_eq!(planned("COPY", &["a", "/b", "", ""]).title, "COPY a /b");
    }

    #[test]
    fn each_refusal_names_its_field() {
        let no_files = WantedStep { files: None, ..step("COPY", &["a", "b"]) };
        let bad_files = WantedStep { files: Some("../../x".into()), ..step("COPY", &["a", "b"]) };
        for (field, bad) in [
            ("steps[1].type", step("ONBUILD", &["x"])),
            ("steps[1].args", step("RUN", &[])),
            ("steps[1].args", step("COPY", &["a"])),
            ("steps[1].args", step("ENV", &["A"])),
            ("steps[1].args.A=B", step("ENV", &["A=B", "x"])),
            ("steps[1].args", step("COPY", &["a", "b", "", "rwx"])),
            ("steps[1].filesHash", no_files),
            ("steps[1].filesHash", bad_files),
        ] {
            let refused = plan(vec![step("RUN", &["ls"]), bad]).unwrap_err();
            assert_eq!(refused.field, field, "{refused}");
        }
        let both =
            Wanted { from_image: Some("a".into()), from_template: Some("b".into()), ..Wanted::default() };
        assert_eq!(Plan::new(both).unwrap_err().field, "fromImage");
        assert_eq!(plan(vec![step("RUN", &["ls"]); 1001]).unwrap_err().field, "steps");
    }

    #[test]
    fn their_base_is_ours() {
        let from = |image: Option<&str>| {
            let wanted = Wanted { from_image: image.map(str::to_owned), ..Wanted::default() };
            match Plan::new(wanted).unwrap().from {
                From::Image { reference, .. } => reference,
                From::Template(name) => name,
            }
        };
        for theirs in [None, Some("e2bdev/base"), Some("docker.io/e2bdev/base:latest")] {
            assert_eq!(from(theirs), "base");
        }
        assert_eq!(from(Some("e2bdev/base:1.2")), "e2bdev/base:1.2");
        assert_eq!(from(Some("python:3")), "python:3");
    }

    #[test]
    fn a_key_tells_steps_apart() {
        let below = key(["image", "base"].into_iter());
        let base = planned("RUN", &["echo a b"]).key(&below);
        assert_eq!(base, planned("run", &["echo a b"]).key(&below), "the same");
        assert_ne!(base, planned("RUN", &["echo a", "b"]).key(&below));
        assert_ne!(base, planned("RUN", &["echo a b"]).key(&base));
        let other = WantedStep { files: Some(FILES.replace('0', "1")), ..step("COPY", &["a", "b"]) };
        let other = plan(vec![other]).unwrap().steps.remove(0);
        assert_ne!(planned("COPY", &["a", "b"]).key(&below), other.key(&below));
        assert_ne!(key(["ab", "c"].into_iter()), key(["a", "bc"].into_iter()));
    }

    #[test]
    fn a_pattern_has_a_fixed_part() {
        for (pattern, fixed) in [
            ("file.txt", "file.txt"),
            ("./a/b.txt", "a/b.txt"),
            ("dir/", "dir"),
            ("dir/*.txt", "dir"),
            ("a/**/b", "a"),
            ("*.txt", "."),
            ("{a,b}/c", "."),
            (".", "."),
        ] {
            assert_eq!(fixed_part(pattern).as_deref(), Some(fixed), "{pattern}");
        }
        assert_eq!(fixed_part("a/../b").as_deref(), Some("b"));
        assert_eq!((fixed_part("../b"), fixed_part("a/../../b")), (None, None));
    }
}
