//! Which slots of an address block are taken. Pure: no clock, no kernel, no files.

/// Gives out the slots of one block in ring order, so that an address rests as long as possible before it is used
/// again: packets and replies meant for its last owner have died out by then.
#[derive(Debug, Clone)]
pub struct Addresses {
    taken: Vec<bool>,
    first: u32,
    next: usize,
    count: usize,
}

impl Addresses {
    /// All slots of `range` (see [`NetPlan::slots`](super::NetPlan::slots)), none taken.
    pub fn new(range: std::ops::Range<u32>) -> Addresses {
        Addresses { taken: vec![false; range.len()], first: range.start, next: 0, count: 0 }
    }

    /// Takes the next free slot; `None` when all are taken.
    pub fn allocate(&mut self) -> Option<u32> {
        let len = self.taken.len();
        let at = (0..len).map(|i| (self.next + i) % len).find(|i| !self.taken[*i])?;
        self.taken[at] = true;
        self.next = (at + 1) % len;
        self.count += 1;
        u32::try_from(at).ok().map(|at| self.first + at)
    }

    /// Takes a slot that a sandbox found at start already has. False when it was taken or is not of this block.
    pub fn mark(&mut self, slot: u32) -> bool {
        self.set(slot, true)
    }

    /// Gives a slot back. False when it was not taken.
    pub fn release(&mut self, slot: u32) -> bool {
        self.set(slot, false)
    }

    /// How many slots are taken.
    pub fn taken(&self) -> usize {
        self.count
    }

    fn set(&mut self, slot: u32, to: bool) -> bool {
        let at = slot.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| self.taken.get_mut(at)) {
            Some(taken) if *taken != to => {
                *taken = to;
                if to {
                    self.count += 1
                } else {
                    self.count -= 1
                }
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_not_used_again_at_once() {
        let mut slots = Addresses::new(16..20);
        assert_eq!(slots.allocate(), Some(16));
        assert!(slots.release(16));
        assert_eq!((0..4).map(|_| slots.allocate()).collect::<Vec<_>>(), [17, 18, 19, 16].map(Some));
        assert_eq!(slots.allocate(), None);
        assert!(slots.release(18));
        assert_eq!(slots.allocate(), Some(18));
        assert_eq!(slots.taken(), 4);
    }

    #[test]
    fn marks_what_is_found() {
        let mut slots = Addresses::new(16..18);
        assert!(slots.mark(16));
        assert!(!slots.mark(16));
        assert!(!slots.mark(15) && !slots.mark(18));
        assert!(!slots.release(17));
        assert_eq!(slots.allocate(), Some(17));
        assert_eq!(slots.allocate(), None);
    }
}
