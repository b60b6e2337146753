//! Recipes: which packages, files and settings make an image. No I/O.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{config::ImageConfig, error::ImageError, reference::is_local};

/// The recipes that every Atoll carries with it: name, text, and the files that belong to it.
type Carried = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

macro_rules! beside {
    ($image:literal: $($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../../../images/", $image, "/", $name)))),*]
    };
}

const CARRIED: &[Carried] = &[
    ("base", include_str!("../../../../images/base/recipe.toml"), &[]),
    (
        "code",
        include_str!("../../../../images/code/recipe.toml"),
        beside!("code": "start", "ready", "main.py", "app.py", "contexts.py", "execution.py", "jupyter.py", "workers.py", "kernel/python.py", "kernel/atoll_charts.py", "kernel/atoll_display.py", "kernel/javascript.js", "kernel/cell.js", "kernel/interrupts.js", "kernel/bash.sh"),
    ),
    (
        "desktop",
        include_str!("../../../../images/desktop/recipe.toml"),
        beside!("desktop": "novnc_proxy", "xfwm4.xml", "firefox-policies.json"),
    ),
];

/// An image to be made from Debian packages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The name the image gets.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// The image that it adds to, whose layers it shares: one that Atoll carries the recipe of, or one that is here.
    /// None begins with nothing.
    #[serde(default)]
    pub from: Option<String>,
    /// Packages besides those that every Debian has, or that are in the image before.
    pub packages: Vec<String>,
    /// Packages that are left out where the machine's sources have none of that name; only on top of another image.
    #[serde(default)]
    pub optional: Vec<String>,
    /// Paths (with `*`) that are not unpacked from packages; a `!` in front keeps what an earlier one leaves out.
    #[serde(default)]
    pub trim: Vec<String>,
    /// Run by `sh` as root inside the new root file system.
    #[serde(default)]
    pub script: String,
    /// Files that come with the recipe: the absolute path in the image, and the file's name beside the recipe. They are
    /// there before the script runs; those that begin with `#!` can be executed.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What is in those files, by their names.
    #[serde(skip)]
    pub(super) contents: BTreeMap<String, &'static str>,
    /// How the image wants to be run.
    pub config: RecipeConfig,
}

/// How an image made from a recipe wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecipeConfig {
    /// The program, before the command.
    pub entrypoint: Vec<String>,
    /// The command.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// The user; empty means root.
    pub user: String,
    /// The directory to start in.
    pub workdir: String,
    /// `8080/tcp` each.
    pub exposed_ports: Vec<String>,
}

impl Recipe {
    /// The names of the recipes that every Atoll carries with it.
    pub fn names() -> impl Iterator<Item = &'static str> {
        CARRIED.iter().map(|(name, ..)| *name)
    }

    /// The recipe of that name which every Atoll carries with it, if there is one.
    pub fn carried(name: &str) -> Option<Result<Self, ImageError>> {
        let (_, text, files) = CARRIED.iter().find(|(carried, ..)| *carried == name)?;
        Some(Self::with_files(text, files))
    }

    /// Reads a recipe without files and checks it.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        Self::with_files(text, &[])
    }

    fn with_files(text: &str, files: &[(&str, &'static str)]) -> Result<Self, ImageError> {
        let mut recipe: Self = toml::from_str(text).map_err(|error| ImageError::InvalidRecipe {
            recipe: String::from("?"),
            reason: error.to_string(),
        })?;
        recipe.contents = files.iter().map(|(name, content)| ((*name).to_owned(), *content)).collect();
        recipe.check().map_err(|reason| ImageError::InvalidRecipe { recipe: recipe.name.clone(), reason })?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if !is_local(&self.name) {
            return Err(format!("`{}` is not a name: lowercase letters, digits, `-` and `_`", self.name));
        }
        if let Some(package) = self.packages.iter().chain(&self.optional).find(|package| !is_package(package))
        {
            return Err(format!("`{package}` is not the name of a package"));
        }
        if let Some(path) = self.trim.iter().find(|path| !is_pattern(path)) {
            return Err(format!("`{path}` is not an absolute path"));
        }
        if let Some(image) = self.from.iter().find(|image| !is_local(image) || **image == self.name) {
            return Err(format!("it cannot add to `{image}`"));
        }
        if self.from.is_none() && !self.optional.is_empty() {
            return Err(String::from("`optional` needs `from`: only there the sources can be asked first"));
        }
        if let Some(path) = self.files.keys().find(|path| !is_place(path)) {
            return Err(format!("`{path}` is not an absolute path"));
        }
        let missing = self.files.values().find(|name| !self.contents.contains_key(*name));
        missing.map_or(Ok(()), |name| Err(format!("the file `{name}` does not come with it")))
    }

    /// The settings as the image's record keeps them.
    pub(super) fn image_config(&self) -> ImageConfig {
        let config = self.config.clone();
        ImageConfig {
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            env: config.env,
            user: config.user,
            workdir: config.workdir,
            exposed_ports: config.exposed_ports,
            labels: [(String::from("org.opencontainers.image.description"), self.description.clone())].into(),
            stop_signal: None,
        }
    }
}

fn is_package(name: &str) -> bool {
    name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

fn is_place(path: &str) -> bool {
    let path = Path::new(path);
    path.is_absolute() && path.components().all(|part| !matches!(part, std::path::Component::ParentDir))
}

fn is_pattern(path: &str) -> bool {
    path.strip_prefix('!').unwrap_or(path).starts_with('/') && !path.contains(['\n', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_that_are_carried_are_valid() {
        for (name, ..) in CARRIED {
            let recipe = Recipe::carried(name).unwrap().unwrap();
            assert_eq!((recipe.name.as_str(), recipe.config.user.as_str()), (*name, "user"));
            assert_eq!(recipe.image_config().workdir, "/home/user");
            assert_eq!(recipe.files.len(), recipe.contents.len(), "every file has its place");
        }
        assert!(Recipe::carried("python").is_none());
    }

    #[test]
    fn bad_recipes_are_refused() {
        let good = "name='x'\nfrom='y'\npackages=['git']\n[files]\n'/f'='f'\n[config]\n";
        assert!(Recipe::with_files(good, &[("f", "")]).is_ok());
        for (from, to) in [
            ("'x'", "'X/y'"),
            ("'git'", "'git; rm'"),
            ("'git'", "'-o'"),
            ("[config]", "colour=1\n[config]"),
            ("'git'", "'git']\noptional=['-o'"),
            ("from='y'", "optional=['z']"),
            ("from='y'", "from='x'"),
            ("from='y'", "from='docker.io/y'"),
            ("'/f'", "'f'"),
            ("'/f'", "'/../f'"),
            ("='f'", "='g'"),
        ] {
            let bad = good.replace(from, to);
            let refused = Recipe::with_files(&bad, &[("f", "")]);
            assert!(matches!(refused, Err(ImageError::InvalidRecipe { .. })), "{bad}");
        }
    }
}
