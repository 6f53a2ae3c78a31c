//! Everything slow.

#![forbid(unsafe_code)]

pub mod kernel;
pub mod rules;
