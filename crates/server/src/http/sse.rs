//! Server-sent events: the event's name is its tag, its data the whole event as JSON. Other people's clients may want
//! theirs without a name.

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt};
use serde::Serialize;
use std::{convert::Infallible, time::Duration};
use tokio_util::sync::CancellationToken;

use crate::request_id;

/// A comment goes out after so long without an event, so that nobody between takes the connection for dead.
const QUIET: Duration = Duration::from_secs(15);

/// Answers with a stream of events. It must have an end of its own.
pub fn events<T: Serialize>(stream: impl Stream<Item = T> + Send + 'static) -> Response {
    answer(stream.map(|event| named(&event)))
}

/// The same without names: each event is one line of data.
pub fn lines<T: Serialize>(stream: impl Stream<Item = T> + Send + 'static) -> Response {
    answer(stream.map(|event| Event::default().data(encode(&event).to_string())))
}

fn answer(stream: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = request_id::carried(stream).map(Ok::<_, Infallible>);
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(QUIET));
    ([("x-accel-buffering", "no")], sse).into_response()
}

/// Ends a stream when the server stops.
pub fn until<S: Stream>(stream: S, stopping: CancellationToken) -> impl Stream<Item = S::Item> {
    stream.take_until(stopping.cancelled_owned())
}

fn encode<T: Serialize>(event: &T) -> serde_json::Value {
    serde_json::to_value(event).unwrap_or_default()
}

fn named<T: Serialize>(event: &T) -> Event {
    let value = encode(event);
    let name = value.get("event").and_then(|name| name.as_str()).unwrap_or("message").to_owned();
    Event::default().event(name).data(value.to_string())
}
