//! Orders and summarises measured times.

use std::time::Duration;

/// Times of the same thing, measured again and again.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
        self.0.sort_unstable();
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of them do not exceed, in milliseconds.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map(|time| time.as_secs_f64() * 1e3)
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut all: Vec<_> = times.into_iter().collect();
        all.sort_unstable();
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Times = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(times.percentile(50), Some(50.0));
        assert_eq!(times.percentile(99), Some(99.0));
        assert_eq!(times.percentile(0), Some(1.0));
        assert_eq!(Times::default().percentile(50), None);
    }
}
