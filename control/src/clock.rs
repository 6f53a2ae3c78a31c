//! The time for workers: the processor's timestamp counter, scaled to milliseconds.

use dataplane::time::{Clock, Millis};

/// Reads the timestamp counter and multiplies; no system call, no division.
#[derive(Clone, Copy, Debug)]
pub struct TimestampClock {
    start: u64,
    /// Milliseconds a tick, in units of 2^-64.
    scale: u128,
    /// Ticks since the start at the last look.
    ticks: u64,
}

impl TimestampClock {
    /// A clock that starts at 0. Measures the counter's rate once per process.
    pub fn start() -> Self {
        let ticks_per_ms = (cpu::timestamp_hz() / 1_000).max(1);
        Self { start: cpu::timestamp(), scale: (1u128 << 64) / u128::from(ticks_per_ms), ticks: 0 }
    }
}

impl Clock for TimestampClock {
    #[inline(always)]
    fn now(&mut self) -> Millis {
        let ticks = cpu::timestamp().wrapping_sub(self.start);
        self.ticks = ticks;
        // 32 bits of milliseconds wrap by design; see `Millis`.
        Millis(((u128::from(ticks) * self.scale) >> 64) as u32)
    }

    #[inline(always)]
    fn ticks(&self) -> u64 {
        self.ticks
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_counts_milliseconds() {
        let mut clock = TimestampClock::start();
        let before = clock.now();
        std::thread::sleep(Duration::from_millis(30));
        let elapsed_ms = clock.now().since(before);
        assert!(elapsed_ms >= 29, "{elapsed_ms} ms in a sleep of at least 30");
    }
}
