//! What every [`Store`] must do, as one suite to run against each of them. Must not know which one it is.

use futures::future::{join_all, try_join_all};
use jiff::Timestamp;
use std::{collections::BTreeMap, sync::Arc};

use super::builds_contract::builds_contract;
use crate::{
    key::{ApiKey, Role, hash},
    store::{IdempotencyKey, IdempotencyRecord, Store, StoreError},
    template::{Template, TemplateSpec},
};

pub(super) type Outcome = Result<(), StoreError>;

/// How many callers go for the same thing at once.
const CROWD: i64 = 32;

/// Texts on which quoting, encodings and collations go wrong.
const ODD_TEXTS: [&str; 8] = [
    "",
    " spaces ",
    "o'clock; DROP TABLE templates; --",
    "\"quoted\" `back` \\slash\\ $1 %s _ ?",
    "žluťoučký kůň 🐎 \u{202e}rtl",
    "e\u{301} is not \u{e9}",
    "line\r\nline\ttab\u{1}\u{7f}",
    "\u{fffd}\u{ffff}\u{10ffff}",
];

/// Runs the whole suite; `make` gives an empty store each time.
///
/// # Panics
/// Where the store does not keep the contract.
pub async fn store_contract(make: impl AsyncFn() -> Arc<dyn Store>) {
    keys_are_found_until_deleted(&*make().await).await.unwrap_or_else(refused("keys"));
    keys_are_told_apart(&*make().await).await.unwrap_or_else(refused("duplicate keys"));
    keys_are_listed_by_age(&*make().await).await.unwrap_or_else(refused("lists of keys"));
    versions_count_up(&*make().await).await.unwrap_or_else(refused("versions"));
    templates_are_listed(&*make().await).await.unwrap_or_else(refused("lists of templates"));
    templates_are_forgotten(&*make().await).await.unwrap_or_else(refused("deleted templates"));
    tenants_are_apart(&*make().await).await.unwrap_or_else(refused("tenants"));
    writers_make_versions_without_gaps(make().await).await.unwrap_or_else(refused("concurrent versions"));
    equal_writers_make_one_version(make().await).await.unwrap_or_else(refused("concurrent equal specs"));
    requests_begin_once(&*make().await).await.unwrap_or_else(refused("idempotency"));
    a_crowd_has_one_winner(make().await).await.unwrap_or_else(refused("concurrent requests"));
    requests_are_swept(&*make().await).await.unwrap_or_else(refused("the sweep"));
    odd_texts_are_kept(&*make().await).await.unwrap_or_else(refused("odd texts"));
    long_texts_are_kept(&*make().await).await.unwrap_or_else(refused("long texts"));
    nul_is_refused(&*make().await).await;
    builds_contract(&make).await;
    make().await.ping().await.unwrap_or_else(refused("ping"));
}

/// Ends the suite where a call failed that must not.
pub(super) fn refused(case: &'static str) -> impl FnOnce(StoreError) {
    move |error| unreachable!("the store failed at {case}: {error}")
}

#[track_caller]
pub(super) fn assert_missing<T: std::fmt::Debug>(outcome: Result<T, StoreError>, what: &str) {
    assert!(matches!(&outcome, Err(StoreError::NotFound(name)) if name == what), "{what}: {outcome:?}");
}

/// A moment that no database rounds.
pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_microsecond(second * 1_000_000 + 123_456).unwrap_or_default()
}

fn key(id: &str, tenant: &str, second: i64) -> ApiKey {
    ApiKey {
        id: id.into(),
        name: format!("{id}'s name"),
        tenant: tenant.into(),
        role: Role::Member,
        hash: hash(id),
        created_at: at(second),
    }
}

fn spec(image: &str) -> TemplateSpec {
    TemplateSpec { image: image.into(), ..TemplateSpec::default() }
}

fn request(key: &str) -> IdempotencyKey {
    IdempotencyKey { caller: "caller".into(), route: "POST /api/v1/sandboxes".into(), key: key.into() }
}

fn record(resource: &str, second: i64) -> IdempotencyRecord {
    IdempotencyRecord { body_hash: hash(resource), resource_id: resource.into(), created_at: at(second) }
}

async fn keys_are_found_until_deleted(store: &dyn Store) -> Outcome {
    let member = key("member", "default", 1);
    let admin = ApiKey { role: Role::Admin, ..key("admin", "default", 2) };
    assert_eq!(store.key_by_hash(&member.hash).await?, None);
    store.put_key(&member).await?;
    store.put_key(&admin).await?;
    assert_eq!(store.key_by_hash(&member.hash).await?, Some(member.clone()));
    assert_eq!(store.key_by_hash(&admin.hash).await?, Some(admin.clone()));
    assert_eq!(store.key_by_hash(&member.hash.to_uppercase()).await?, None);

    store.delete_key("member").await?;
    assert_eq!(store.key_by_hash(&member.hash).await?, None);
    assert_eq!(store.key_by_hash(&admin.hash).await?, Some(admin));
    assert_missing(store.delete_key("member").await, "key member");
    store.put_key(&member).await
}

async fn keys_are_told_apart(store: &dyn Store) -> Outcome {
    let first = key("first", "default", 1);
    store.put_key(&first).await?;
    let same_id = ApiKey { hash: hash("another"), ..first.clone() };
    let same_hash = ApiKey { id: "second".into(), ..first.clone() };
    for double in [&first, &same_id, &same_hash] {
        let outcome = store.put_key(double).await;
        let what = format!("key {}", double.id);
        assert!(matches!(&outcome, Err(StoreError::Exists(name)) if *name == what), "{outcome:?}");
    }
    assert_eq!(store.keys(None).await?, [first]);
    Ok(())
}

async fn keys_are_listed_by_age(store: &dyn Store) -> Outcome {
    let [young, old, other] = [key("a", "red", 3), key("b", "red", 1), key("c", "blue", 2)];
    let [twin, before_1970] = [key("B", "red", 1), key("old", "grey", -5)];
    for key in [&young, &old, &other, &twin, &before_1970] {
        store.put_key(key).await?;
    }
    assert_eq!(store.keys(Some("red")).await?, [twin.clone(), old.clone(), young.clone()]);
    assert_eq!(store.keys(None).await?, [before_1970, twin, old, other, young]);
    assert_eq!(store.keys(Some("Red")).await?, []);
    Ok(())
}

async fn versions_count_up(store: &dyn Store) -> Outcome {
    let first = store.put_template("default", "web", &spec("one"), at(1)).await?;
    let made = Template { name: "web".into(), version: 1, spec: spec("one"), created_at: at(1) };
    assert_eq!(first, made);
    assert_eq!(store.put_template("default", "web", &spec("one"), at(2)).await?, first);

    let fine = at(3) + jiff::SignedDuration::from_nanos(789);
    let second = store.put_template("default", "web", &spec("two"), fine).await?;
    assert_eq!((second.version, second.created_at), (2, at(3)));
    let back = store.put_template("default", "web", &spec("one"), at(4)).await?;
    assert_eq!((back.version, &back.spec), (3, &spec("one")));

    assert_eq!(store.template("default", "web", None).await?, back);
    assert_eq!(store.template("default", "web", Some(1)).await?, first);
    assert_eq!(store.template("default", "web", Some(2)).await?, second);
    assert_eq!(store.template_versions("default", "web").await?, [back, second, first]);
    for version in [4, 0, -1, i64::MAX] {
        let what = format!("version {version} of template web");
        assert_missing(store.template("default", "web", Some(version)).await, &what);
    }
    Ok(())
}

async fn templates_are_listed(store: &dyn Store) -> Outcome {
    assert_eq!(store.templates("default").await?, []);
    // Byte order, which is not any language's: capitals, then small letters, then accents.
    let names = ["Zebra", "a-b", "a.b", "ab", "b", "é"];
    for name in names.iter().rev() {
        store.put_template("default", name, &spec("old"), at(1)).await?;
        store.put_template("default", name, &spec("new"), at(2)).await?;
    }
    let listed = store.templates("default").await?;
    assert_eq!(listed.iter().map(|template| template.name.as_str()).collect::<Vec<_>>(), names);
    assert!(listed.iter().all(|template| template.version == 2 && template.spec == spec("new")));
    Ok(())
}

async fn templates_are_forgotten(store: &dyn Store) -> Outcome {
    store.put_template("default", "web", &spec("one"), at(1)).await?;
    store.put_template("default", "web", &spec("two"), at(1)).await?;
    store.put_template("default", "web2", &spec("two"), at(1)).await?;
    store.delete_template("default", "web").await?;
    assert_missing(store.template("default", "web", None).await, "template web");
    assert_missing(store.template("default", "web", Some(1)).await, "version 1 of template web");
    assert_missing(store.template_versions("default", "web").await, "template web");
    assert_missing(store.delete_template("default", "web").await, "template web");
    assert_eq!(store.templates("default").await?.len(), 1);
    assert_eq!(store.put_template("default", "web", &spec("two"), at(5)).await?.version, 1);
    Ok(())
}

async fn tenants_are_apart(store: &dyn Store) -> Outcome {
    let red = store.put_template("red", "web", &spec("red"), at(1)).await?;
    let blue = store.put_template("blue", "web", &spec("blue"), at(1)).await?;
    assert_eq!((red.version, blue.version), (1, 1));
    assert_missing(store.template("green", "web", None).await, "template web");
    assert_missing(store.delete_template("green", "web").await, "template web");
    store.delete_template("red", "web").await?;
    assert_eq!(store.templates("red").await?, []);
    assert_eq!(store.templates("blue").await?, [blue]);
    Ok(())
}

/// Starts `call` for each of a crowd, each in a task of its own.
async fn crowd<T: Send + 'static, F>(call: impl Fn(i64) -> F) -> Result<Vec<T>, StoreError>
where
    F: Future<Output = Result<T, StoreError>> + Send + 'static,
{
    let tasks: Vec<_> = (0..CROWD).map(|n| tokio::spawn(call(n))).collect();
    let done = join_all(tasks).await.into_iter();
    done.map(|task| task.unwrap_or_else(|dead| unreachable!("a task died: {dead}"))).collect()
}

async fn writers_make_versions_without_gaps(store: Arc<dyn Store>) -> Outcome {
    let made = crowd(|n| {
        let store = Arc::clone(&store);
        async move { store.put_template("default", "web", &spec(&format!("image-{n}")), at(n)).await }
    });
    let mut made = made.await?;
    made.sort_by_key(|template| std::cmp::Reverse(template.version));
    let versions: Vec<_> = made.iter().map(|template| template.version).collect();
    assert_eq!(versions, (1..=CROWD).rev().collect::<Vec<_>>());
    assert_eq!(store.template_versions("default", "web").await?, made);
    Ok(())
}

async fn equal_writers_make_one_version(store: Arc<dyn Store>) -> Outcome {
    let made = crowd(|n| {
        let store = Arc::clone(&store);
        async move { store.put_template("default", "web", &spec("same"), at(n)).await }
    });
    let kept = the_one(&made.await?);
    assert_eq!(store.template_versions("default", "web").await?, [kept]);
    Ok(())
}

/// The one value that all of them are.
fn the_one<T: Clone + PartialEq + std::fmt::Debug>(all: &[T]) -> T {
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    all[0].clone()
}

async fn requests_begin_once(store: &dyn Store) -> Outcome {
    assert_eq!(store.begin_idempotent(&request("k"), &record("first", 1)).await?, None);
    let known = store.begin_idempotent(&request("k"), &record("second", 2)).await?;
    assert_eq!(known, Some(record("first", 1)));

    let mut others = vec![request("K"), request("k ")];
    others.push(IdempotencyKey { caller: "other".into(), ..request("k") });
    others.push(IdempotencyKey { route: "POST /elsewhere".into(), ..request("k") });
    // The same letters, parted elsewhere.
    others.push(IdempotencyKey {
        caller: "callerPOST ".into(),
        route: "/api/v1/sandboxes".into(),
        ..request("k")
    });
    for other in &others {
        assert_eq!(store.begin_idempotent(other, &record("third", 3)).await?, None, "{other:?}");
    }
    store.forget_idempotent(&request("k")).await?;
    store.forget_idempotent(&request("k")).await?;
    assert_eq!(store.begin_idempotent(&request("k"), &record("fourth", 4)).await?, None);
    let known = store.begin_idempotent(&others[0], &record("fifth", 5)).await?;
    assert_eq!(known, Some(record("third", 3)));
    Ok(())
}

async fn a_crowd_has_one_winner(store: Arc<dyn Store>) -> Outcome {
    for round in 0..4 {
        let outcomes = crowd(|n| {
            let (store, key) = (Arc::clone(&store), request(&format!("round {round}")));
            async move { store.begin_idempotent(&key, &record(&format!("by {n}"), n)).await }
        });
        let outcomes = outcomes.await?;
        let (winners, losers): (Vec<_>, Vec<_>) = outcomes.iter().enumerate().partition(|(_, o)| o.is_none());
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        let won = winners[0].0;
        let first = record(&format!("by {won}"), i64::try_from(won).unwrap_or_default());
        assert!(losers.iter().all(|(_, known)| known.as_ref() == Some(&first)), "{outcomes:?}");
    }
    Ok(())
}

async fn requests_are_swept(store: &dyn Store) -> Outcome {
    for second in 0..10 {
        store.begin_idempotent(&request(&second.to_string()), &record("x", second)).await?;
    }
    assert_eq!(store.sweep_idempotent(at(0)).await?, 0);
    assert_eq!(store.sweep_idempotent(at(4)).await?, 4);
    assert_eq!(store.sweep_idempotent(at(4)).await?, 0);
    assert_eq!(store.begin_idempotent(&request("3"), &record("y", 20)).await?, None);
    assert_eq!(store.begin_idempotent(&request("4"), &record("y", 20)).await?, Some(record("x", 4)));
    assert_eq!(store.sweep_idempotent(Timestamp::MAX).await?, 7);
    assert_eq!(store.sweep_idempotent(Timestamp::MIN).await?, 0);
    Ok(())
}

async fn odd_texts_are_kept(store: &dyn Store) -> Outcome {
    for (n, text) in ODD_TEXTS.iter().enumerate() {
        let odd =
            ApiKey { name: (*text).into(), tenant: (*text).into(), ..key(&format!("{n}{text}"), "", 1) };
        store.put_key(&odd).await?;
        assert_eq!(store.key_by_hash(&odd.hash).await?.as_ref(), Some(&odd));
        assert_eq!(store.keys(Some(text)).await?, [odd]);

        let env = BTreeMap::from([("TEXT".into(), (*text).into()), ("NUL".into(), "a\0b".into())]);
        let recipe = TemplateSpec { env, ..spec(text) };
        let made = store.put_template(text, text, &recipe, at(1)).await?;
        assert_eq!(store.template(text, text, Some(1)).await?, made);
        assert_eq!((made.name.as_str(), &made.spec), (*text, &recipe));
        assert_eq!(store.templates(text).await?, [made]);

        assert_eq!(store.begin_idempotent(&request(text), &record(text, 1)).await?, None);
        assert_eq!(store.begin_idempotent(&request(text), &record("", 2)).await?, Some(record(text, 1)));
    }
    try_join_all(ODD_TEXTS.iter().map(|text| store.delete_template(text, text))).await?;
    Ok(())
}

/// Letters that do not compress: databases have limits on what they index, after compression.
fn long(chars: usize) -> String {
    let mut state = 1_u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (state >> 24) as u8 % 26)
    };
    (0..chars).map(letter).collect()
}

async fn long_texts_are_kept(store: &dyn Store) -> Outcome {
    let wordy = ApiKey { name: long(100_000), ..key("wordy", "default", 1) };
    store.put_key(&wordy).await?;
    assert_eq!(store.key_by_hash(&wordy.hash).await?, Some(wordy));

    let recipe = TemplateSpec { env: BTreeMap::from([("LONG".into(), long(4 << 20))]), ..spec("base") };
    store.put_template("default", "web", &recipe, at(1)).await?;
    assert!(store.template("default", "web", None).await?.spec == recipe, "a long recipe was changed");

    let request = request(&long(64_000));
    assert_eq!(store.begin_idempotent(&request, &record("long", 1)).await?, None);
    assert_eq!(store.begin_idempotent(&request, &record("x", 2)).await?, Some(record("long", 1)));
    Ok(())
}

async fn nul_is_refused(store: &dyn Store) {
    #[track_caller]
    fn assert_invalid<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
        let text = format!("{outcome:?}");
        assert!(matches!(&outcome, Err(StoreError::Invalid(why)) if why.contains("a\\0b")), "{text}");
    }
    let nul = "a\0b";
    assert_invalid(store.put_key(&key(nul, "default", 1)).await);
    assert_invalid(store.put_key(&ApiKey { name: nul.into(), ..key("k", "default", 1) }).await);
    assert_invalid(store.put_key(&key("k", nul, 1)).await);
    assert_invalid(store.key_by_hash(nul).await);
    assert_invalid(store.keys(Some(nul)).await);
    assert_invalid(store.delete_key(nul).await);
    assert_invalid(store.put_template("default", nul, &spec("x"), at(1)).await);
    assert_invalid(store.template(nul, "web", None).await);
    assert_invalid(store.template("default", nul, Some(1)).await);
    assert_invalid(store.templates(nul).await);
    assert_invalid(store.template_versions("default", nul).await);
    assert_invalid(store.delete_template("default", nul).await);
    assert_invalid(store.begin_idempotent(&request(nul), &record("x", 1)).await);
    assert_invalid(store.begin_idempotent(&request("x"), &record(nul, 1)).await);
    assert_invalid(store.forget_idempotent(&request(nul)).await);
}
