//! Everything slow: rules, launch, kernel twins, the API.
//!
//! [`director`] is the process: it reads [`rules`], opens what they name ([`ports`], [`launch`], [`kernel`]), and keeps
//! the workers' rulesets up to date. [`api`] is how it is asked; [`report`] what it answers.

#![forbid(unsafe_code)]

pub mod api;
pub mod capture;
pub mod clock;
pub mod device;
pub mod director;
pub mod endless;
pub mod kernel;
pub mod launch;
pub mod memory;
pub mod ports;
pub mod replay;
pub mod report;
pub mod rules;
pub mod slow_path;
