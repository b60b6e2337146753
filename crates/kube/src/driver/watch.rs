//! Follows every Sandbox of the cluster into the cache, over lost connections and expired versions.

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        utils::StreamBackoff,
        watcher::{self, Event, watcher},
    },
};
use std::{pin::pin, sync::Arc};
use tokio::sync::Notify;

use super::{
    Shared,
    request::causes,
    seen::{Place, Seen, version},
};
use crate::{crd::Sandbox, pauses::Pauses};

/// Follows without end. `complete` is told whenever the cache has everything.
pub async fn follow(client: Client, shared: Arc<Shared>, complete: Arc<Notify>) {
    let all = Api::<Sandbox>::all(client.clone());
    let stream = StreamBackoff::new(watcher(all, watcher::Config::default()), Pauses::default());
    take(stream, &client, &shared, &complete).await;
}

async fn take(
    stream: impl Stream<Item = Result<Event<Sandbox>, watcher::Error>>,
    client: &Client,
    shared: &Shared,
    complete: &Notify,
) {
    let mut stream = pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::InitDone) => {
                end_list(client, shared).await;
                complete.notify_one();
            }
            Ok(event) => shared.tell(apply(event, shared)),
            Err(error) => {
                tracing::warn!(error = %causes(&error), "sandboxes cannot be watched; it is tried again");
            }
        }
    }
}

fn apply(event: Event<Sandbox>, shared: &Shared) -> Vec<atoll_core::driver::Event> {
    let cache = &shared.cache;
    match event {
        Event::Apply(object) => shared.seen(&object).map_or_else(Vec::new, |seen| cache.saw(seen)),
        Event::InitApply(object) => shared.seen(&object).map_or_else(Vec::new, |seen| cache.listed(seen)),
        Event::Delete(object) => {
            let place = Place { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
            cache.saw_gone(&place, &object.uid().unwrap_or_default(), version(&object))
        }
        Event::Init => {
            cache.begin_list();
            Vec::new()
        }
        Event::InitDone => Vec::new(),
    }
}

/// What we wrote while the list was made may be gone without that the watch will ever say so.
async fn end_list(client: &Client, shared: &Shared) {
    let (events, doubtful) = shared.cache.end_list();
    shared.tell(events);
    for seen in doubtful {
        if !is_there(client, &seen).await {
            shared.tell(shared.cache.gone(&seen.place, &seen.uid));
        }
    }
}

/// A look that fails leaves it to the next list.
async fn is_there(client: &Client, seen: &Seen) -> bool {
    let api = Api::<Sandbox>::namespaced(client.clone(), &seen.place.namespace);
    let found = api.get_opt(&seen.place.name).await;
    found.map_or(true, |there| there.is_some_and(|it| it.uid().as_deref() == Some(&*seen.uid)))
}
