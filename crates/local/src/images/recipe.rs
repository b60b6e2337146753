//! Recipes: which packages and settings make an image. No I/O.

use serde::{Deserialize, Serialize};

use super::{config::ImageConfig, error::ImageError, reference::is_local};

/// An image to be made from Debian packages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The name the image gets.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Packages besides those that every Debian has.
    pub packages: Vec<String>,
    /// Paths (with `*`) that are not unpacked from packages; a `!` in front keeps what an earlier one leaves out.
    #[serde(default)]
    pub trim: Vec<String>,
    /// Run by `sh` as root inside the new root file system.
    #[serde(default)]
    pub script: String,
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
    /// The recipe that every Atoll carries with it.
    pub fn base() -> Result<Self, ImageError> {
        Self::parse(include_str!("../../../../images/base/recipe.toml"))
    }

    /// Reads a recipe and checks it.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let recipe: Self = toml::from_str(text).map_err(|error| ImageError::InvalidRecipe {
            recipe: String::from("?"),
            reason: error.to_string(),
        })?;
        recipe.check().map_err(|reason| ImageError::InvalidRecipe { recipe: recipe.name.clone(), reason })?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if !is_local(&self.name) {
            return Err(format!("`{}` is not a name: lowercase letters, digits, `-` and `_`", self.name));
        }
        if let Some(package) = self.packages.iter().find(|package| !is_package(package)) {
            return Err(format!("`{package}` is not the name of a package"));
        }
        if let Some(path) = self.trim.iter().find(|path| !is_pattern(path)) {
            return Err(format!("`{path}` is not an absolute path"));
        }
        Ok(())
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

fn is_pattern(path: &str) -> bool {
    path.strip_prefix('!').unwrap_or(path).starts_with('/') && !path.contains(['\n', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_recipe_is_valid() {
        let recipe = Recipe::base().unwrap();
        assert_eq!((recipe.name.as_str(), recipe.config.user.as_str()), ("base", "user"));
        assert_eq!(recipe.image_config().workdir, "/home/user");
    }

    #[test]
    fn bad_recipes_are_refused() {
        let good = "name='x'\npackages=['git']\n[config]\n";
        assert!(Recipe::parse(good).is_ok());
        for (from, to) in
            [("'x'", "'X/y'"), ("'git'", "'git; rm'"), ("'git'", "'-o'"), ("[config]", "colour=1\n[config]")]
        {
            let bad = good.replace(from, to);
            assert!(matches!(Recipe::parse(&bad), Err(ImageError::InvalidRecipe { .. })), "{bad}");
        }
    }
}
