//! A token bucket on the line's clock: so many a second, and as many more at once as it holds.

use crate::time::Millis;

/// Thousandths of a token: what a rate of one a second gives in a millisecond.
const TOKEN: u64 = 1_000;

/// A bound on how often something is done.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Tokens a second.
    rate: u32,
    /// Tokens it holds at most.
    size: u32,
    /// In thousandths of a token.
    level: u64,
    filled: Millis,
}

impl TokenBucket {
    /// A full bucket: `rate` tokens a second, `size` of them at once.
    pub const fn new(rate: u32, size: u32) -> Self {
        Self { rate, size, level: size as u64 * TOKEN, filled: Millis(0) }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Millis) -> bool {
        let gained = u64::from(now.since(self.filled)) * u64::from(self.rate);
        self.level = (self.level + gained).min(u64::from(self.size) * TOKEN);
        self.filled = now;
        let left = self.level.checked_sub(TOKEN);
        self.level = left.unwrap_or(self.level);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_its_rate() {
        let mut bucket = TokenBucket::new(1_000, 50);
        let mut taken = |now| (0..1_000).filter(|_| bucket.take(Millis(now))).count();
        assert_eq!([taken(5), taken(5), taken(6), taken(16)], [50, 0, 1, 10]);
        assert_eq!(taken(1_000_000), 50, "no more than it holds");
    }

    #[test]
    fn a_rate_below_one_a_millisecond_loses_nothing() {
        let mut bucket = TokenBucket::new(3, 1);
        let taken = (0..10_000).filter(|now| bucket.take(Millis(*now))).count();
        assert_eq!(taken, 30, "one at the start, and three a second for ten seconds less a millisecond");
    }
}
