//! The API's description: as JSON for programs, and as a page that shows it without anything from elsewhere.

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};

const PAGE: &str = include_str!("docs.html");
const SCRIPT: &str = include_str!("docs.js");
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The description.
pub async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::openapi()).into_response()
}

/// The page.
pub async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(PAGE)).into_response()
}

/// The page's script.
pub async fn script() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for text in [PAGE, SCRIPT] {
            assert!(!text.contains("//cdn") && !text.contains("http://") && !text.contains("https://"));
        }
    }
}
