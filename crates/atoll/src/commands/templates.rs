//! `templates`: recipes from files, listed, shown, removed.

use atoll_client::api::{Template, TemplateSpec};
use serde_json::Value;
use std::{fs, io::Read, path::Path};

use super::{Context, remove_each, word};
use crate::{cli::Templates, failure::Failure, values::moment};

/// The times of a lifecycle for which a file may say "never": TOML has no word for the `null` of JSON.
const TIMES: [&str; 4] = ["pause_after", "stop_after", "terminate_after", "ttl"];
const NEVER: &str = "never";

/// `atoll templates`
pub async fn templates(context: &Context, command: Templates) -> Result<(), Failure> {
    match command {
        Templates::Ls => print_all(context, &context.client.templates().await?),
        Templates::Versions { name } => print_all(context, &context.client.template_versions(&name).await?),
        Templates::Get { name, version } => {
            let template = context.client.template(&name, version).await?;
            context.format.print_one(&template, fields, &template.name)
        }
        Templates::Apply { file, name } => apply(context, &file, name).await,
        Templates::Rm { names } => {
            remove_each(context, "name", &names, async |name| context.client.remove_template(name).await)
                .await
        }
    }
}

fn print_all(context: &Context, items: &[Template]) -> Result<(), Failure> {
    let header = ["NAME", "VERSION", "IMAGE", "TIER", "MADE"];
    context.format.print_all(items, &header, row, |template| &template.name)
}

fn row(template: &Template) -> Vec<String> {
    vec![
        template.name.clone(),
        template.version.to_string(),
        template.spec.image.clone(),
        word(&template.spec.tier),
        moment(template.created_at),
    ]
}

/// The recipe's own fields, as they would be written in a file.
fn fields(template: &Template) -> Vec<(&'static str, String)> {
    let mut table = toml::Table::try_from(&template.spec).unwrap_or_default();
    if let Some(lifecycle) = table.get_mut("lifecycle").and_then(toml::Value::as_table_mut) {
        for time in TIMES {
            lifecycle.entry(time).or_insert_with(|| NEVER.into());
        }
    }
    let text = toml::to_string(&table).unwrap_or_default();
    let head = [("name", template.name.clone()), ("version", template.version.to_string())];
    let spec = text.lines().filter(|line| !line.is_empty()).map(|line| ("", line.to_owned()));
    head.into_iter().chain(spec).collect()
}

async fn apply(context: &Context, file: &Path, name: Option<String>) -> Result<(), Failure> {
    let text = read(file)?;
    let (name, spec) =
        parse(&text, name).map_err(|problem| Failure::Wrong(format!("{}: {problem}", file.display())))?;
    let template = context.client.put_template(&name, &spec).await?;
    context.format.print_done(&template, &format!("{}@{}", template.name, template.version))
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(file).map(|found| text = found),
    };
    read.map_err(|source| Failure::file("read", file, source))?;
    Ok(text)
}

/// A recipe with its name inside or beside it, or what `templates get -o json` prints.
fn parse(text: &str, given: Option<String>) -> Result<(String, TemplateSpec), String> {
    let mut value: Value = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(|error| error.to_string())?,
        false => toml::from_str(text).map_err(|error| error.to_string())?,
    };
    let named = value.as_object_mut().and_then(|fields| fields.remove("name"));
    let named = named.and_then(|name| name.as_str().map(str::to_owned));
    let name = match (given, named) {
        (Some(given), Some(named)) if given != named => {
            return Err(format!("its name is {named:?}, not {given:?}"));
        }
        (given, named) => given.or(named).ok_or("it has no name; add one, or give it after the file")?,
    };
    if let Some(spec) = value.get_mut("spec") {
        value = spec.take();
    }
    never_is_null(&mut value);
    let spec = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Ok((name, spec))
}

fn never_is_null(spec: &mut Value) {
    let Some(lifecycle) = spec.get_mut("lifecycle").and_then(Value::as_object_mut) else { return };
    for time in TIMES {
        if let Some(value) = lifecycle.get_mut(time).filter(|value| **value == NEVER) {
            *value = Value::Null;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_json_and_what_get_prints_are_read() {
        let toml = "name = \"t\"\nimage = \"base\"\ntier = \"standard\"\n[lifecycle]\npause_after = 60\n";
        let (name, spec) = parse(toml, None).unwrap();
        assert_eq!((name.as_str(), spec.image.as_str(), spec.lifecycle.pause_after), ("t", "base", Some(60)));
        let (name, spec) = parse("{\"image\": \"base\"}", Some("t".into())).unwrap();
        assert_eq!((name.as_str(), spec.image.as_str()), ("t", "base"));
        let printed =
            r#"{"name":"t","version":3,"spec":{"image":"base"},"created_at":"2026-01-01T00:00:00Z"}"#;
        assert_eq!(parse(printed, None).unwrap().1.image, "base");
    }

    #[test]
    fn a_lifecycle_can_say_never_and_what_is_shown_says_it_too() {
        let toml =
            "image = \"base\"\n[lifecycle]\npause_after = \"never\"\nstop_after = 60\nttl = \"never\"\n";
        let (name, spec) = parse(toml, Some("t".into())).unwrap();
        let times = &spec.lifecycle;
        assert_eq!((times.pause_after, times.stop_after, times.ttl), (None, Some(60), None));
        assert_eq!(times.terminate_after, Some(86_400), "what is not named is as usual");
        let json = "{\"image\": \"base\", \"lifecycle\": {\"pause_after\": \"never\"}}";
        assert_eq!(parse(json, Some("t".into())).unwrap().1.lifecycle.pause_after, None);
        let template = Template { name, version: 1, spec, created_at: jiff::Timestamp::UNIX_EPOCH };
        let shown: String = fields(&template).into_iter().skip(2).map(|(_, line)| line + "\n").collect();
        assert_eq!(parse(&shown, Some("t".into())).unwrap().1, template.spec, "{shown}");
        assert!(parse(&toml.replace("never", "forever"), Some("t".into())).unwrap_err().contains("forever"));
    }

    #[test]
    fn slips_are_named() {
        assert!(parse("image = \"base\"", None).unwrap_err().contains("no name"));
        assert!(parse("name = \"a\"\nimage = \"base\"", Some("b".into())).unwrap_err().contains("not \"b\""));
        assert!(parse("name = \"a\"\nimgae = \"base\"", None).unwrap_err().contains("imgae"));
    }
}
