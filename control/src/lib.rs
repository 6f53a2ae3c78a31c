//! Everything slow: rules, launch, kernel twins, the API.
//!
//! [`director`] is the process: it reads [`rules`], opens what they name ([`ports`], [`launch`], [`kernel`]), and keeps
//! the workers' rulesets up to date, [`health`] says which backends can serve. [`api`] is how it is asked; [`report`] and [`flows`] are what it answers.
//! [`import`] writes rules from what LVS has.

#![forbid(unsafe_code)]

pub mod api;
pub mod capture;
pub mod changes;
pub mod clock;
pub mod device;
pub mod director;
pub mod doctor;
pub mod endless;
pub mod explain;
pub mod flows;
pub mod framing;
pub mod health;
pub mod import;
pub mod ipvsadm;
pub mod kernel;
pub mod launch;
pub mod log;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod nic;
pub mod offload;
pub mod pci;
pub mod ports;
mod random;
pub mod replay;
pub mod report;
pub mod rss;
pub mod rules;
pub mod service_totals;
pub mod slow_path;
pub mod table_memory;
pub mod worker_report;
