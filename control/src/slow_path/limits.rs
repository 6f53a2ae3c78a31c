//! The rates of the classes, changed while the thread runs.

use std::sync::atomic::{AtomicU32, Ordering};

use super::classify::Class;
use crate::rules;

/// Packets per second that each class may send to a twin. Every twin has the whole rate: a flood at one port does not
/// use up what another port may pass. Only towards the kernel; what it sends is its own business.
#[derive(Debug)]
pub struct Limits([AtomicU32; Class::ALL.len()]);

impl Limits {
    /// The rates of `[slow_path]` in the rules.
    pub fn new(rates: &rules::SlowPath) -> Self {
        Self(Class::ALL.map(|class| AtomicU32::new(rate_of(rates, class))))
    }

    /// Puts other rates in force, from the thread's next turn on. Does not wait for it.
    pub fn set(&self, rates: &rules::SlowPath) {
        for class in Class::ALL {
            self.0[class as usize].store(rate_of(rates, class), Ordering::Relaxed);
        }
    }

    /// The rate of a class in packets per second.
    pub fn of(&self, class: Class) -> u32 {
        self.0[class as usize].load(Ordering::Relaxed)
    }
}

fn rate_of(rates: &rules::SlowPath, class: Class) -> u32 {
    match class {
        Class::Arp => rates.arp,
        Class::Routing => rates.routing,
        Class::Local => rates.local,
        Class::Rest => rates.rest,
    }
}
