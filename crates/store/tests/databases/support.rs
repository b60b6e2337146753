//! What the tests of both databases need.

use atoll_core::{
    key::{ApiKey, Role, hash},
    store::{Store, StoreError},
    template::TemplateSpec,
};
use jiff::Timestamp;
use std::{io::Write, sync::Arc};

/// Says on the terminal, past the test runner's capture, that something was not tried here.
pub fn skip(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
}

pub async fn open(url: &str) -> Arc<dyn Store> {
    atoll_store::open(url).await.unwrap()
}

/// Why `url` cannot be opened.
pub async fn refusal(url: &str) -> String {
    match atoll_store::open(url).await {
        Ok(_) => panic!("{url} was opened"),
        Err(StoreError::Database(why)) => why,
        Err(other) => panic!("{url}: {other:?}"),
    }
}

pub fn key(id: &str) -> ApiKey {
    ApiKey {
        id: id.into(),
        name: id.into(),
        tenant: "default".into(),
        role: Role::Member,
        hash: hash(id),
        created_at: Timestamp::UNIX_EPOCH,
    }
}

pub fn spec(image: &str) -> TemplateSpec {
    TemplateSpec { image: image.into(), ..TemplateSpec::default() }
}
