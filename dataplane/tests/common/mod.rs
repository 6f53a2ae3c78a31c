//! What the tests of the line stand on: rules built by hand, frames made by etherparse (an encoder and
//! decoder we did not write), a worker on the memory twin and a clock that the test moves.

// Several test binaries and one example include this module; each uses a part of it.
#![allow(dead_code, unused_imports)]

pub(crate) mod director;
pub(crate) mod frames;
pub(crate) mod rules;

pub(crate) use director::Director;
pub(crate) use frames::Frame;
pub(crate) use rules::ruleset;
