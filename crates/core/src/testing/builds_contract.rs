//! What every store must do with builds. Must not know which one it is.

use futures::future::try_join_all;
use std::sync::Arc;

use super::store_contract::{Outcome, assert_missing, at, refused};
use crate::{
    build::{Begun, Build, BuildAsk, BuildState, Level, LogLine},
    store::Store,
};

/// Runs the part of the suite that is about builds.
pub(super) async fn builds_contract(make: &impl AsyncFn() -> Arc<dyn Store>) {
    builds_are_found(&*make().await).await.unwrap_or_else(refused("builds"));
    builds_go_their_way(&*make().await).await.unwrap_or_else(refused("states of builds"));
    a_build_begins_once(make().await).await.unwrap_or_else(refused("concurrent begins"));
    silent_builds_end(&*make().await).await.unwrap_or_else(refused("silent builds"));
    logs_are_read_from_anywhere(&*make().await).await.unwrap_or_else(refused("logs"));
    tags_point_to_builds(&*make().await).await.unwrap_or_else(refused("tags"));
    builds_are_forgotten(&*make().await).await.unwrap_or_else(refused("deleted builds"));
}

fn build(id: &str, tenant: &str, template: &str, second: i64) -> Build {
    Build {
        id: id.into(),
        tenant: tenant.into(),
        template: template.into(),
        ask: BuildAsk { tags: vec!["v1".into(), "o'clock".into()], cpu: Some("2".into()), memory: None },
        state: BuildState::Waiting,
        created_at: at(second),
        updated_at: at(second),
    }
}

fn line(number: i64) -> LogLine {
    let step = (number % 2 == 0).then(|| number.to_string());
    LogLine { at: at(number), level: Level::Warn, step, message: format!("line {number}\0 'quoted'") }
}

fn failed() -> BuildState {
    BuildState::Failed { message: "it \"broke\"".into(), step: Some("2".into()) }
}

async fn builds_are_found(store: &dyn Store) -> Outcome {
    let [old, young] = [build("a", "red", "web", 1), build("b", "red", "web", 2)];
    let [other, others] = [build("c", "red", "api", 3), build("d", "blue", "web", 4)];
    for build in [&old, &young, &other, &others] {
        store.put_build(build).await?;
    }
    assert!(store.put_build(&build("a", "blue", "x", 9)).await.is_err(), "an id is used once");
    assert_eq!(store.build("red", "a").await?, old);
    assert_missing(store.build("blue", "a").await, "build a");
    assert_eq!(store.builds_of("red", "web", 9).await?, [young.clone(), old]);
    assert_eq!(store.builds_of("red", "web", 1).await?, [young]);
    assert_eq!(store.builds_of("red", "WEB", 9).await?, []);
    assert_eq!(store.built_templates("red").await?, ["api", "web"]);
    assert_eq!(store.built_templates("grey").await?, [""; 0]);
    Ok(())
}

async fn builds_go_their_way(store: &dyn Store) -> Outcome {
    let mut one = build("a", "red", "web", 1);
    store.put_build(&one).await?;
    assert!(!store.touch_build("red", "a", at(2)).await?, "it waits");
    assert!(!store.end_build("red", "a", &failed(), at(2)).await?, "it waits");
    assert_missing(store.begin_build("blue", "a", 1, at(2)).await, "build a");
    assert_eq!(store.begin_build("red", "a", 0, at(2)).await?, Begun::TooMany);
    assert_eq!(store.begin_build("red", "a", 1, at(2)).await?, Begun::Yes);
    assert_eq!(store.begin_build("red", "a", 9, at(3)).await?, Begun::NotWaiting);
    (one.state, one.updated_at) = (BuildState::Building, at(2));
    assert_eq!(store.build("red", "a").await?, one);

    store.put_build(&build("b", "red", "api", 1)).await?;
    store.put_build(&build("c", "blue", "web", 1)).await?;
    assert_eq!(store.begin_build("red", "b", 1, at(3)).await?, Begun::TooMany, "one is under way");
    assert_eq!(store.begin_build("blue", "c", 1, at(3)).await?, Begun::Yes, "another tenant's");

    assert!(store.touch_build("red", "a", at(5)).await?);
    assert!(!store.touch_build("blue", "a", at(6)).await?, "not theirs");
    assert_eq!(store.build("red", "a").await?.updated_at, at(5));
    let ready = BuildState::Ready { version: 7 };
    assert!(store.end_build("red", "a", &ready, at(6)).await?);
    assert!(!store.end_build("red", "a", &failed(), at(7)).await?, "it is over");
    assert!(!store.touch_build("red", "a", at(7)).await?, "it is over");
    (one.state, one.updated_at) = (ready, at(6));
    assert_eq!(store.build("red", "a").await?, one);
    assert_eq!(store.begin_build("red", "b", 1, at(8)).await?, Begun::Yes, "there is room again");
    assert!(store.end_build("red", "b", &failed(), at(9)).await?);
    assert_eq!(store.build("red", "b").await?.state, failed());
    Ok(())
}

async fn a_build_begins_once(store: Arc<dyn Store>) -> Outcome {
    store.put_build(&build("a", "red", "web", 1)).await?;
    let begun = try_join_all((0..16).map(|_| store.begin_build("red", "a", 99, at(2)))).await?;
    assert_eq!(begun.iter().filter(|begun| **begun == Begun::Yes).count(), 1, "{begun:?}");
    Ok(())
}

async fn silent_builds_end(store: &dyn Store) -> Outcome {
    for (id, second) in [("old", 1), ("new", 5), ("waits", 1)] {
        store.put_build(&build(id, "red", id, 1)).await?;
        if id != "waits" {
            store.begin_build("red", id, 9, at(second)).await?;
        }
    }
    assert_eq!(store.end_silent_builds(&BuildState::Building, at(5), &failed()).await?, 1);
    assert_eq!(store.build("red", "old").await?.state, failed());
    assert_eq!(store.build("red", "new").await?.state, BuildState::Building);
    assert_eq!(store.end_silent_builds(&BuildState::Waiting, at(2), &failed()).await?, 1);
    assert_eq!(store.build("red", "waits").await?.state, failed());
    Ok(())
}

async fn logs_are_read_from_anywhere(store: &dyn Store) -> Outcome {
    let lines: Vec<LogLine> = (0..7).map(line).collect();
    assert_eq!(store.log("a", 0).await?, []);
    store.append_log("a", 0, &lines[..3]).await?;
    store.append_log("a", 3, &[]).await?;
    store.append_log("a", 3, &lines[3..4]).await?;
    store.append_log("a", 4, &lines[4..]).await?;
    store.append_log("b", 0, &lines[..1]).await?;
    for first in 0..9 {
        assert_eq!(store.log("a", first as u64).await?, lines[first.min(7)..], "from {first}");
    }
    Ok(())
}

async fn tags_point_to_builds(store: &dyn Store) -> Outcome {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    store.put_tags("red", "web", &names(&["v1", "default"]), "a", at(1)).await?;
    store.put_tags("red", "web", &names(&["v1", "Z"]), "b", at(2)).await?;
    store.put_tags("blue", "web", &names(&["v1"]), "c", at(3)).await?;
    let found = store.tags("red", "web").await?;
    let short: Vec<_> = found.iter().map(|it| (it.tag.as_str(), it.build.as_str(), it.at)).collect();
    assert_eq!(short, [("Z", "b", at(2)), ("default", "a", at(1)), ("v1", "b", at(2))]);
    assert_eq!(store.remove_tags("red", "web", &names(&["v1", "gone"])).await?, 1);
    assert_eq!(store.tags("red", "web").await?.len(), 2);
    assert_eq!(store.tags("blue", "web").await?.len(), 1);
    assert_eq!(store.tags("red", "api").await?, []);
    Ok(())
}

async fn builds_are_forgotten(store: &dyn Store) -> Outcome {
    let ready = BuildState::Ready { version: 1 };
    for (id, template, end) in
        [("r", "web", Some(&ready)), ("f", "web", Some(&failed())), ("b", "web", None), ("o", "api", None)]
    {
        store.put_build(&build(id, "red", template, 1)).await?;
        store.begin_build("red", id, 9, at(1)).await?;
        store.append_log(id, 0, &[line(1)]).await?;
        if let Some(end) = end {
            store.end_build("red", id, end, at(2)).await?;
        }
    }
    assert_eq!(store.sweep_builds(at(2)).await?, 0);
    assert_eq!(store.log("r", 0).await?.len(), 1);
    assert_eq!(store.sweep_builds(at(3)).await?, 1);
    assert_missing(store.build("red", "f").await, "build f");
    assert_eq!(store.build("red", "r").await?.state, ready);
    assert_eq!((store.log("r", 0).await?.len(), store.log("b", 0).await?.len()), (0, 1));

    store.put_tags("red", "web", &["v1".to_owned()], "r", at(4)).await?;
    store.put_tags("red", "api", &["v1".to_owned()], "o", at(4)).await?;
    store.delete_builds("red", "web").await?;
    store.delete_builds("red", "web").await?;
    assert_eq!(store.builds_of("red", "web", 9).await?, []);
    assert_eq!((store.tags("red", "web").await?.len(), store.log("b", 0).await?.len()), (0, 0));
    assert_eq!((store.tags("red", "api").await?.len(), store.log("o", 0).await?.len()), (1, 1));
    Ok(())
}
