//! How long whoever follows the cluster waits after a lost or refused watch. Pure.

use kube::runtime::utils::Backoff;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// Short, because several watches share one pause each: after an outage every one of them fails once or twice, one after
/// another, and until they are through, nothing is seen that happens.
const LONGEST: Duration = Duration::from_secs(1);

/// Each twice as long as the one before, up to a second; after a success from the beginning.
#[derive(Clone, Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_short() {
        let mut pauses = Pauses::default();
        let all: Duration = pauses.by_ref().take(10).sum();
        assert!(all < Duration::from_secs(8), "{all:?}");
        assert_eq!(pauses.next(), Some(LONGEST));
        pauses.reset();
        assert_eq!(pauses.next(), Some(FIRST));
    }
}
