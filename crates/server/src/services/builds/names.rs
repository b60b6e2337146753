//! Names of templates and tags as callers of other people's APIs write them: `name`, `name:tag`, `tenant/name`. Pure.

use atoll_core::{error::Invalid, id::SnapshotId};

/// Longest name, and longest tag.
const LONGEST: usize = 128;

/// A template as it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub tag: Option<String>,
}

/// Reads the name of a template, with or without a tag; capitals count as small letters.
pub fn named(field: &str, text: &str, tenant: &str) -> Result<Named, Invalid> {
    let text = text.trim().to_lowercase();
    let (name, tag) = text.split_once(':').map_or((text.as_str(), None), |(name, tag)| (name, Some(tag)));
    let name = match name.split_once('/') {
        Some((owner, name)) if owner == tenant.to_lowercase() => name,
        Some((owner, _)) => {
            return Err(Invalid::new(field, format!("{owner:?} is not your tenant; leave it out")));
        }
        None => name,
    };
    let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_');
    if !(1..=LONGEST).contains(&name.len()) || !name.chars().all(plain) {
        let rule = format!("1 to {LONGEST} letters, digits, `-`, `_`");
        return Err(Invalid::new(field, format!("{name:?} is not the name of a template: {rule}")));
    }
    if SnapshotId::parse(name).is_ok() {
        return Err(Invalid::new(field, format!("{name:?} could be a snapshot's id; choose another name")));
    }
    let tag = tag.map(|tag| self::tag(field, tag)).transpose()?;
    Ok(Named { name: name.to_owned(), tag })
}

/// Reads tags; each counts once.
pub fn tags(field: &str, texts: &[String]) -> Result<Vec<String>, Invalid> {
    let mut tags: Vec<String> = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let tag = tag(&format!("{field}[{n}]"), text)?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

fn tag(field: &str, text: &str) -> Result<String, Invalid> {
    let tag = text.trim().to_lowercase();
    let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    if !(1..=LONGEST).contains(&tag.len()) || !tag.chars().all(plain) {
        let rule = format!("1 to {LONGEST} letters, digits, `-`, `_`, `.`");
        return Err(Invalid::new(field, format!("{text:?} is not a tag: {rule}")));
    }
    if is_uuid(&tag) {
        return Err(Invalid::new(field, "a tag cannot be a UUID: builds are named so"));
    }
    Ok(tag)
}

/// Whether a text has the form of a build's id: 8-4-4-4-12 hex digits.
fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Named, Invalid> {
        named("name", text, "Acme")
    }

    #[test]
    fn names_are_read_as_clients_write_them() {
        let of = |name: &str, tag: Option<&str>| Ok(Named { name: name.into(), tag: tag.map(str::to_owned) });
        assert_eq!(read("web"), of("web", None));
        assert_eq!(read(" My_Web:V1.0 "), of("my_web", Some("v1.0")));
        assert_eq!(read("acme/web:stable"), of("web", Some("stable")));
        assert_eq!(read("3f2c9a7e-0000-4000-8000-000000000000").unwrap().tag, None);
        let snapshot = SnapshotId::from_entropy([1; 19]).to_string();
        let long = "x".repeat(129);
        for bad in ["", ":v1", "a:", "a b", "a.b", "other/web", "a/b/c", "a:b:c", "ü", &snapshot, &long] {
            assert_eq!(read(bad).unwrap_err().field, "name", "{bad:?}");
        }
    }

    #[test]
    fn tags_count_once_and_are_no_builds() {
        let texts = ["V1", "v1", "a.b"].map(str::to_owned);
        assert_eq!(tags("tags", &texts).unwrap(), ["v1", "a.b"]);
        for bad in ["", "a b", "a/b", "3f2c9a7e-0000-4000-8000-00000000000A"] {
            let texts = ["fine".to_owned(), bad.to_owned()];
            assert_eq!(tags("tags", &texts).unwrap_err().field, "tags[1]", "{bad:?}");
        }
    }
}
