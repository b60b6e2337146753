//! The machine's own sources of packages: read from apt's files, cleaned for an image. Knows nothing of building.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Parts of an archive that Debian and Ubuntu themselves give; other people's repositories have other names.
const COMPONENTS: &[&str] =
    &["main", "contrib", "non-free", "non-free-firmware", "restricted", "universe", "multiverse"];

/// A source of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) uri: String,
    pub(super) suite: String,
    pub(super) components: Vec<String>,
    pub(super) key: Key,
    pub(super) trusted: bool,
}

/// The key that a source's packages are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// One of those that apt trusts anyway.
    Default,
    /// A file on this machine.
    File(PathBuf),
    /// Written in the source's own description.
    Inline(String),
}

/// The suite to build, and the distribution's own sources for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) suite: String,
    pub(super) sources: Vec<Source>,
}

/// The sources of the machine whose root directory this is.
pub(super) fn of_machine(root: &Path) -> Result<Sources, String> {
    let release = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let apt = root.join("etc/apt");
    let mut found = one_line(&read(&apt.join("sources.list"))?);
    for path in list(&apt.join("sources.list.d"))? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => found.extend(one_line(&read(&path)?)),
            Some("sources") => found.extend(deb822(&read(&path)?)),
            _ => {}
        }
    }
    let found = found.into_iter().flat_map(|source| follow_mirror_list(root, source)).collect();
    choose(&codename(&release), found)
}

fn read(path: &Path) -> Result<String, String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|error| format!("cannot read {}: {error}", path.display())),
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| format!("cannot read {}: {error}", directory.display()))?,
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

/// `mirror+file:` names a file with addresses; the first one of it serves the build.
fn follow_mirror_list(root: &Path, mut source: Source) -> Option<Source> {
    if let Some(path) = source.uri.strip_prefix("mirror+file:") {
        let text = read(&root.join(path.trim_start_matches('/'))).ok()?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        source.uri = lines.next()?.split_whitespace().next()?.to_owned();
    }
    Some(source)
}

fn codename(release: &str) -> String {
    let value = |line: &str| line.strip_prefix("VERSION_CODENAME=").map(|v| v.trim_matches('"').to_owned());
    release.lines().find_map(value).unwrap_or_default()
}

/// The distribution's own suites. Where none has the release's name (testing, sid), the first suite decides.
fn choose(codename: &str, found: Vec<Source>) -> Result<Sources, String> {
    let usable = |source: &Source| {
        (source.uri.starts_with("http://") || source.uri.starts_with("https://"))
            && !source.components.is_empty()
            && source.components.iter().all(|component| COMPONENTS.contains(&component.as_str()))
    };
    let usable: Vec<Source> = found.into_iter().filter(usable).collect();
    let named = usable.iter().find(|source| source.suite == codename).or_else(|| usable.first());
    let Some(suite) = named.map(|source| source.suite.clone()) else {
        return Err(String::from(
            "no Debian or Ubuntu source over http(s) in /etc/apt/sources.list or /etc/apt/sources.list.d",
        ));
    };
    let suites = [suite.clone(), format!("{suite}-updates"), format!("{suite}-security")];
    let mut seen = BTreeSet::new();
    let own = usable.into_iter().filter(|source| suites.contains(&source.suite));
    let sources: Vec<Source> = own.filter(|source| seen.insert(source.line(None))).collect();
    Ok(Sources { suite, sources })
}

/// `deb [options] uri suite component...`
fn one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(|line| one(line.split('#').next().unwrap_or_default().trim())).collect()
}

fn one(line: &str) -> Option<Source> {
    let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    let option = |name: &str| {
        options
            .split_whitespace()
            .find_map(|option| option.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let key = option("signed-by").map_or(Key::Default, |path| Key::File(path.into()));
    let trusted = option("trusted").is_some_and(|value| value == "yes");
    Some(Source { uri, suite, components: words.collect(), key, trusted })
}

/// Stanzas of `Field: value` with continuation lines.
fn deb822(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).flat_map(stanza).collect()
}

fn stanza(lines: &[&str]) -> Vec<Source> {
    let field = |name: &str| {
        let mut value = None::<String>;
        for line in lines {
            match (&mut value, line.split_once(':')) {
                (Some(text), _) if line.starts_with([' ', '\t']) => {
                    text.push('\n');
                    text.push_str(line.trim());
                }
                (Some(_), _) => break,
                (None, Some((key, rest))) if key.eq_ignore_ascii_case(name) => {
                    value = Some(rest.trim().to_owned())
                }
                _ => {}
            }
        }
        value.unwrap_or_default()
    };
    let words = |name: &str| -> Vec<String> { field(name).split_whitespace().map(str::to_owned).collect() };
    let off = ["no", "false", "0", "off"].contains(&field("Enabled").to_lowercase().as_str());
    if off || !words("Types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let signed = field("Signed-By");
    let key = match signed.trim() {
        "" => Key::Default,
        path if path.starts_with('/') => Key::File(path.split_whitespace().next().unwrap_or(path).into()),
        block => Key::Inline(
            block
                .lines()
                .map(|line| if line == "." { "\n" } else { line }.trim().to_owned() + "\n")
                .collect(),
        ),
    };
    let trusted = field("Trusted").eq_ignore_ascii_case("yes");
    let (suites, components) = (words("Suites"), words("Components"));
    let pairs = words("URIs")
        .into_iter()
        .flat_map(|uri| suites.iter().map(move |suite| (uri.clone(), suite.clone())));
    pairs
        .map(|(uri, suite)| Source { uri, suite, components: components.clone(), key: key.clone(), trusted })
        .collect()
}

impl Source {
    /// As one line of a `sources.list`, signed by a key at this path.
    pub(super) fn line(&self, key: Option<&Path>) -> String {
        let mut options = Vec::new();
        options.extend(key.map(|path| format!("signed-by={}", path.display())));
        options.extend(self.trusted.then(|| String::from("trusted=yes")));
        let options = if options.is_empty() { String::new() } else { format!("[{}] ", options.join(" ")) };
        format!("deb {options}{} {} {}", self.uri, self.suite, self.components.join(" "))
    }

    /// The same source without a user's name and password.
    pub(super) fn without_credentials(&self) -> Self {
        let mut source = self.clone();
        if let Some((scheme, rest)) = self.uri.split_once("://") {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            source.uri = format!("{scheme}://{host}/{path}");
        }
        source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Result<Sources, String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        of_machine(root.path())
    }

    const BOOKWORM: (&str, &str) = ("etc/os-release", "ID=debian\nVERSION_CODENAME=bookworm\n");

    #[test]
    fn reads_both_formats_and_leaves_other_peoples_out() {
        let found = machine(&[
            BOOKWORM,
            (
                "etc/apt/sources.list",
                "# deb http://commented/ bookworm main\n\
                 deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://me:pw@m.example/debian bookworm main contrib # note\n\
                 deb-src http://m.example/debian bookworm main\n\
                 deb cdrom:[Debian]/ bookworm main\n\
                 deb https://download.docker.example/linux bookworm stable\n",
            ),
            (
                "etc/apt/sources.list.d/debian.sources",
                "Types: deb deb-src\n# note\nURIs: http://d.example/debian\nSuites: bookworm bookworm-updates\n\
                 Components: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n\n\
                 Types: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\nEnabled: no\n",
            ),
            ("etc/apt/sources.list.d/x.list.disabled", "deb http://never.example bookworm main"),
        ])
        .unwrap();
        assert_eq!(found.suite, "bookworm");
        let lines: Vec<String> = found.sources.iter().map(|s| s.without_credentials().line(None)).collect();
        assert_eq!(
            lines,
            [
                "deb https://m.example/debian bookworm main contrib",
                "deb http://d.example/debian bookworm main",
                "deb http://d.example/debian bookworm-updates main",
            ]
        );
        assert!(found.sources[0].line(None).contains("me:pw@"), "the build itself needs them");
        assert_eq!(found.sources[0].key, Key::File("/usr/share/keyrings/x.gpg".into()));
        let Key::Inline(block) = &found.sources[1].key else { panic!("{:?}", found.sources[1].key) };
        assert_eq!(block, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n");
    }

    #[test]
    fn follows_mirror_lists_and_suites_without_a_codename() {
        let found = machine(&[
            ("etc/os-release", "ID=debian\n"),
            ("etc/apt/mirrors.txt", "# list\nhttp://a.example/debian/\tpriority:1\nhttp://b.example/\n"),
            ("etc/apt/sources.list", "deb mirror+file:/etc/apt/mirrors.txt sid main\n"),
        ])
        .unwrap();
        assert_eq!(
            (found.suite.as_str(), found.sources[0].uri.as_str()),
            ("sid", "http://a.example/debian/")
        );
    }

    #[test]
    fn no_source_is_told() {
        let reason =
            machine(&[BOOKWORM, ("etc/apt/sources.list", "deb file:/srv bookworm main\n")]).unwrap_err();
        assert!(reason.contains("sources.list"), "{reason}");
    }
}
