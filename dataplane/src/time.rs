//! Time as the line sees it: handed in, never read.

/// Milliseconds since an arbitrary start; wraps after 49 days, so only differences mean something.
///
/// Differences hold up to 24 days; the expiry hand visits every entry far more often than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Millis(pub u32);

impl Millis {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` lies ahead.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let elapsed = self.0.wrapping_sub(earlier.0);
        if elapsed > u32::MAX / 2 { 0 } else { elapsed }
    }

    /// The later of two instants.
    #[inline(always)]
    pub const fn later(self, other: Self) -> Self {
        if other.since(self) > 0 { other } else { self }
    }
}

/// Where a worker reads the time, once a turn of its loop.
pub trait Clock {
    /// Now.
    fn now(&mut self) -> Millis;

    /// The clock's own ticks at the last `now`, for what is shorter than a millisecond; always 0 where it has none.
    #[inline(always)]
    fn ticks(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_the_wrap() {
        assert_eq!(Millis(5).since(Millis(u32::MAX - 4)), 10);
        assert_eq!(Millis(u32::MAX - 4).since(Millis(5)), 0);
        assert_eq!(Millis(u32::MAX).later(Millis(3)), Millis(3));
        assert_eq!(Millis(3).later(Millis(u32::MAX)), Millis(3));
    }
}
