//! What newcomers may cost one turn of the worker's loop. A packet of a known connection costs what it costs; a newcomer's
//! backend has to be chosen, by some schedulers from all there are, and chosen again where it cannot be reached.
//!
//! Counted in members looked at, about a nanosecond each. A turn that has spent `ENOUGH` takes no further burst: what
//! waits in the queues of ports and in the rings of other workers waits for the next turn. So the longest one is that and a
//! burst more.

/// What admitting a connection costs beside the choice.
const NEWCOMER: u32 = 512;
/// A choice that does not look at all members.
const SHORT_CHOICE: u32 = 16;
/// Spent in a turn, so that no further burst is taken: half a burst of newcomers.
const ENOUGH: u32 = 16 * NEWCOMER;
/// Spent in a turn on choosing again.
const AGAIN: u32 = 8_192;

/// What the turn has spent.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    spent: u32,
    again_left: u32,
}

impl Default for Effort {
    fn default() -> Self {
        Self { spent: 0, again_left: AGAIN }
    }
}

impl Effort {
    /// A connection is asked for.
    pub fn admit(&mut self) {
        self.spent = self.spent.saturating_add(NEWCOMER);
    }

    /// The scheduler chooses among `members`, of whom it looks at all or at a few.
    pub fn choose(&mut self, looks_at_all: bool, members: usize) {
        self.spent = self.spent.saturating_add(cost(looks_at_all, members));
    }

    /// Whether it may choose once more for the same packet; then that is spent. At least once in a turn it may.
    pub fn choose_again(&mut self, looks_at_all: bool, members: usize) -> bool {
        let may = self.again_left > 0;
        if may {
            self.again_left = self.again_left.saturating_sub(cost(looks_at_all, members));
            self.choose(looks_at_all, members);
        }
        may
    }

    /// Whether the turn takes no further burst.
    pub fn is_enough(&self) -> bool {
        self.spent >= ENOUGH
    }
}

fn cost(looks_at_all: bool, members: usize) -> u32 {
    if looks_at_all { u32::try_from(members).unwrap_or(u32::MAX).max(SHORT_CHOICE) } else { SHORT_CHOICE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_burst_of_newcomers_is_enough_and_fewer_where_many_are_looked_at() {
        for (looks_at_all, members, newcomers) in [(false, 1_000, 16), (true, 10, 16), (true, 1_000, 6)] {
            let mut effort = Effort::default();
            for _ in 0..newcomers {
                assert!(!effort.is_enough());
                effort.admit();
                effort.choose(looks_at_all, members);
            }
            assert!(effort.is_enough(), "{members}");
        }
    }

    #[test]
    fn a_turn_chooses_again_as_often_as_a_burst_needs_unless_that_is_dear() {
        for (looks_at_all, members, times) in [(false, 1_000, 512), (true, 1_000, 9), (true, 32_768, 1)] {
            let mut effort = Effort::default();
            let again = (0..1_000).take_while(|_| effort.choose_again(looks_at_all, members)).count();
            assert_eq!(again, times, "{members}");
        }
    }
}
