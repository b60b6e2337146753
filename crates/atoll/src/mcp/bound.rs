//! Output of any length, of which the beginning and the end are kept: an agent reads all that it is told. Pure.

use std::collections::VecDeque;

/// Characters of one output that an agent is told: some ten thousand tokens.
pub const MOST: usize = 40_000;

/// What was written so far.
#[derive(Debug)]
pub struct Bounded {
    most: usize,
    head: String,
    tail: VecDeque<char>,
    left_out: usize,
    count: usize,
}

impl Default for Bounded {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Bounded {
    /// Keeps so many characters, half of them from the end.
    pub fn of(most: usize) -> Self {
        Self { most, head: String::new(), tail: VecDeque::new(), left_out: 0, count: 0 }
    }

    /// Takes in what comes next.
    pub fn push(&mut self, text: &str) {
        for character in text.chars() {
            self.count += 1;
            if self.count <= self.most / 2 {
                self.head.push(character);
                continue;
            }
            self.tail.push_back(character);
            if self.tail.len() > self.most - self.most / 2 {
                self.tail.pop_front();
                self.left_out += 1;
            }
        }
    }

    /// All of it, or both ends and how much is between them.
    pub fn finish(self) -> String {
        let tail: String = self.tail.into_iter().collect();
        match self.left_out {
            0 => self.head + &tail,
            left_out => format!("{}\n[... {left_out} characters cut here ...]\n{tail}", self.head),
        }
    }
}

/// A whole text, bounded.
pub fn bounded(text: &str) -> String {
    let mut kept = Bounded::default();
    kept.push(text);
    kept.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_ends_are_kept_and_the_cut_is_said() {
        let mut kept = Bounded::of(4);
        for piece in ["ab", "cde", "fg"] {
            kept.push(piece);
        }
        assert_eq!(kept.finish(), "ab\n[... 3 characters cut here ...]\nfg");
    }

    proptest! {
        #[test]
        fn what_fits_is_whole_and_what_does_not_is_bounded(pieces in prop::collection::vec("\\PC{0,9}", 0..9), most in 0_usize..60) {
            let whole = pieces.concat();
            let mut kept = Bounded::of(most);
            pieces.iter().for_each(|piece| kept.push(piece));
            let told = kept.finish();
            if whole.chars().count() <= most {
                prop_assert_eq!(told, whole);
            } else {
                prop_assert!(told.chars().count() <= most + 60);
            }
        }
    }
}
