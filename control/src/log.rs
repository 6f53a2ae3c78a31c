//! The log on stderr, and its bound: what repeats is told twenty times at once and twice a second from then on, with how many
//! were left out. Each place in the code has a bound of its own, so a flood of one message hides no other.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// Messages of one place at once.
const AT_ONCE: f64 = 20.0;
/// And from then on, a second.
const PER_SECOND: f64 = 2.0;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Begins to log, once in a process.
pub fn start(format: Format) {
    // A closed stderr must not end the process: what cannot be logged is not complained of on stderr either.
    let log = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(format == Format::Text && io::stderr().is_terminal())
        .log_internal_errors(false);
    let log = match format {
        Format::Text => log.boxed(),
        Format::Json => log.json().boxed(),
    };
    registry().with(Bound::default()).with(log.with_filter(LevelFilter::INFO)).init();
}

/// Lets pass what is within the bound.
#[derive(Default)]
struct Bound(Mutex<HashMap<Identifier, Bucket>>);

/// The messages that one place may still write.
struct Bucket {
    tokens: f64,
    filled_at: Instant,
    left_out: u64,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { tokens: AT_ONCE, filled_at: now, left_out: 0 }
    }

    /// Takes one; how many were left out before it, or nothing where it is left out itself.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let gained = now.duration_since(self.filled_at).as_secs_f64() * PER_SECOND;
        self.tokens = (self.tokens + gained).min(AT_ONCE);
        self.filled_at = now;
        if self.tokens < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl<S: Subscriber> Layer<S> for Bound {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        // Whoever asks for details wants all of them.
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let now = Instant::now();
        let left_out = {
            let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.entry(event.metadata().callsite()).or_insert_with(|| Bucket::full(now)).take(now)
        };
        if let Some(left_out @ 1..) = left_out {
            warn!("{left_out} messages like the next one were left out");
        }
        left_out.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_repeats_is_told_twenty_times_and_then_twice_a_second() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(begin);
        let told = (0..1_000).filter(|_| bucket.take(begin).is_some()).count();
        assert_eq!((told, bucket.left_out), (20, 980));
        assert_eq!(bucket.take(begin + Duration::from_millis(600)), Some(980));
        assert_eq!(bucket.take(begin + Duration::from_millis(600)), None);
        let minute = begin + Duration::from_secs(60);
        assert_eq!(bucket.take(minute), Some(1));
    }
}
