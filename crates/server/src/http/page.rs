//! Pages of lists: how many items, and where the page before ended. It must not know what is listed.

use atoll_core::driver::Position;
use std::{fmt::Display, str::FromStr};

use super::extract::Query;
use crate::services::error::ServiceError;

/// Items of a page where nobody says.
const USUAL: usize = 100;
/// Most items of a page.
const MOST: usize = 1000;

/// How many items are asked for.
pub fn limit(query: &Query) -> Result<usize, ServiceError> {
    let limit = query.number("limit")?.unwrap_or(USUAL);
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    Err(ServiceError::invalid("limit", format!("is 1 to {MOST}")))
}

/// A position, as callers carry it.
pub fn token<I: Display>(position: &Position<I>) -> String {
    hex::encode(position.to_string())
}

/// The position that the parameter `name` carries.
pub fn position<I: FromStr>(query: &Query, name: &'static str) -> Result<Option<Position<I>>, ServiceError> {
    let decode = |text: &str| {
        let bytes = hex::decode(text).ok()?;
        Position::parse(std::str::from_utf8(&bytes).ok()?)
    };
    let refuse = || ServiceError::invalid(name, "is not one that a list gave");
    query.get(name).map(|text| decode(text).ok_or_else(refuse)).transpose()
}
