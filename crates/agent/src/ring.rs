//! The output of one command, as far as it is kept: numbered pieces, bounded in bytes. Pure: who reads and who waits
//! is not decided here.

use std::collections::VecDeque;

use bytes::Bytes;

/// What a piece costs beside its bytes.
const OVERHEAD: usize = 64;

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
    Terminal,
}

/// A piece of output; numbers count up from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub sequence: u64,
    pub source: Source,
    pub data: Bytes,
}

/// What comes after a given number.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Piece(Piece),
    /// So many pieces are gone.
    Gap(u64),
    Nothing,
}

/// The pieces that are kept.
#[derive(Debug)]
pub struct Ring {
    pieces: VecDeque<Piece>,
    cost: usize,
    capacity: usize,
    last: u64,
}

impl Ring {
    pub fn new(capacity: usize) -> Self {
        Self { pieces: VecDeque::new(), cost: 0, capacity, last: 0 }
    }

    /// The number of the newest piece, 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether a piece fits without dropping one that the slowest reader still needs. Without readers all fits.
    pub fn accepts(&self, length: usize, slowest: Option<u64>) -> bool {
        let Some(slowest) = slowest else { return true };
        let mut cost = self.cost + length + OVERHEAD;
        for piece in &self.pieces {
            if cost <= self.capacity || piece.sequence > slowest {
                break;
            }
            cost -= piece.data.len() + OVERHEAD;
        }
        cost <= self.capacity || self.pieces.back().is_none_or(|piece| piece.sequence <= slowest)
    }

    /// Keeps a piece and drops the oldest that no longer fit.
    pub fn push(&mut self, source: Source, data: Bytes) {
        self.last += 1;
        self.cost += data.len() + OVERHEAD;
        self.pieces.push_back(Piece { sequence: self.last, source, data });
        while self.cost > self.capacity && self.pieces.len() > 1 {
            if let Some(piece) = self.pieces.pop_front() {
                self.cost -= piece.data.len() + OVERHEAD;
            }
        }
    }

    /// What follows the piece with this number.
    pub fn after(&self, sequence: u64) -> Next {
        let Some(first) = self.pieces.front() else { return Next::Nothing };
        let wanted = sequence.saturating_add(1);
        if wanted < first.sequence {
            return Next::Gap(first.sequence - wanted);
        }
        let index = usize::try_from(wanted - first.sequence).ok();
        index.and_then(|index| self.pieces.get(index)).cloned().map_or(Next::Nothing, Next::Piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(ring: &mut Ring, length: usize) {
        ring.push(Source::Stdout, Bytes::from(vec![b'x'; length]));
    }

    fn number(next: Next) -> u64 {
        match next {
            Next::Piece(piece) => piece.sequence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pieces_come_back_in_order() {
        let mut ring = Ring::new(10_000);
        assert_eq!(ring.after(0), Next::Nothing);
        push(&mut ring, 10);
        push(&mut ring, 10);
        assert_eq!(number(ring.after(0)), 1);
        assert_eq!(number(ring.after(1)), 2);
        assert_eq!(ring.after(2), Next::Nothing);
        assert_eq!(ring.after(u64::MAX), Next::Nothing);
    }

    #[test]
    fn the_oldest_are_dropped_and_leave_a_gap() {
        let mut ring = Ring::new(1000);
        for _ in 0..10 {
            push(&mut ring, 300);
        }
        assert_eq!(ring.after(0), Next::Gap(8));
        assert_eq!(number(ring.after(8)), 9);
        assert!(ring.cost <= 1000);
    }

    #[test]
    fn a_slow_reader_holds_the_writer_back() {
        let mut ring = Ring::new(1000);
        for _ in 0..2 {
            push(&mut ring, 300);
        }
        assert!(ring.accepts(300, None));
        assert!(!ring.accepts(300, Some(0)));
        assert!(ring.accepts(300, Some(1)));
        assert!(ring.accepts(5000, Some(2)), "a piece larger than the ring passes when all is read");
        assert!(!ring.accepts(5000, Some(1)));
    }

    #[test]
    fn a_piece_larger_than_the_ring_is_kept_alone() {
        let mut ring = Ring::new(100);
        push(&mut ring, 50);
        push(&mut ring, 500);
        assert_eq!(ring.after(0), Next::Gap(1));
        assert_eq!(number(ring.after(1)), 2);
    }
}
