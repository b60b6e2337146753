//! What is told to whoever waits for an image. Knows nothing of registries or files.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::broadcast;

/// A step of getting an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The registry is asked what the name means.
    Resolving,
    /// A layer's bytes have come this far; a layer that is here already says so with all its bytes.
    Layer {
        /// The blob's digest.
        digest: String,
        /// Bytes that are here.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// The blob's digest.
        digest: String,
    },
    /// A layer is in its place.
    Unpacked {
        /// The blob's digest.
        digest: String,
    },
    /// A line that a build from packages printed.
    Line(String),
    /// The image can be used.
    Done,
}

/// Turns events into one figure from 0 to 100 that never falls.
#[derive(Debug, Default)]
pub struct Percentage {
    layers: BTreeMap<String, LayerShare>,
    shown: u8,
    done: bool,
}

#[derive(Debug, Default)]
struct LayerShare {
    done: u64,
    total: u64,
    unpacked: bool,
}

impl Percentage {
    /// Takes an event in and gives the figure after it.
    pub fn update(&mut self, event: &PullEvent) -> u8 {
        match event {
            PullEvent::Layer { digest, done_bytes, total_bytes } => {
                let layer = self.layers.entry(digest.clone()).or_default();
                (layer.done, layer.total) = (*done_bytes, *total_bytes);
            }
            PullEvent::Unpacked { digest } => {
                self.layers.entry(digest.clone()).or_default().unpacked = true;
            }
            PullEvent::Done => self.done = true,
            PullEvent::Resolving | PullEvent::Unpacking { .. } | PullEvent::Line(_) => {}
        }
        self.shown = self.shown.max(self.figure());
        self.shown
    }

    /// Three quarters of a layer's share are its download, one quarter is unpacking it.
    fn figure(&self) -> u8 {
        if self.done {
            return 100;
        }
        let whole: u128 = self.layers.values().map(|l| u128::from(l.total.max(1)) * 4).sum();
        let have: u128 = self
            .layers
            .values()
            .map(|l| {
                u128::from(l.done.min(l.total)) * 3 + if l.unpacked { u128::from(l.total.max(1)) } else { 0 }
            })
            .sum();
        u8::try_from((have * 99).checked_div(whole).unwrap_or(0)).unwrap_or(99)
    }
}

/// Tells everybody who waits for the same work; who comes late is told how things stand.
#[derive(Debug)]
pub(super) struct Hub {
    latest: Mutex<BTreeMap<String, PullEvent>>,
    sender: broadcast::Sender<PullEvent>,
}

impl Hub {
    pub(super) fn new() -> Self {
        Self { latest: Mutex::default(), sender: broadcast::channel(256).0 }
    }

    pub(super) fn send(&self, event: PullEvent) {
        if let PullEvent::Layer { digest, .. } | PullEvent::Unpacked { digest } = &event {
            let kind = if matches!(event, PullEvent::Layer { .. }) { 'a' } else { 'b' };
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            latest.insert(format!("{kind}{digest}"), event.clone());
        }
        // Nobody listening is no fault: the work goes on.
        let _ = self.sender.send(event);
    }

    /// How things stand, and what comes next.
    pub(super) fn join(&self) -> (Vec<PullEvent>, broadcast::Receiver<PullEvent>) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        (latest.values().cloned().collect(), self.sender.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_rises_to_a_hundred() {
        let mut percentage = Percentage::default();
        let layer = |digest: &str, done_bytes| PullEvent::Layer {
            digest: digest.into(),
            done_bytes,
            total_bytes: 100,
        };
        let figures: Vec<u8> = [
            PullEvent::Resolving,
            layer("a", 0),
            layer("b", 0),
            layer("a", 100),
            PullEvent::Unpacking { digest: "a".into() },
            PullEvent::Unpacked { digest: "a".into() },
            layer("b", 50),
            layer("b", 20),
            layer("b", 100),
            PullEvent::Unpacked { digest: "b".into() },
            PullEvent::Done,
        ]
        .iter()
        .map(|event| percentage.update(event))
        .collect();
        assert!(figures.is_sorted(), "{figures:?}");
        assert_eq!((figures[2], figures[5], figures[10]), (0, 49, 100));
    }
}
