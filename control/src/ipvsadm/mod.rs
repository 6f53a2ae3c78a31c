//! What `ipvsadm` understands and says, for those who have it in their fingers or in scripts: its command line as plain
//! [`command::Command`]s, and the lines of its scripts and of `ipvsadm -S`. Nothing here carries a command out.
//!
//! Read first: ipvsadm(8).

pub mod command;
mod names;
mod options;
pub mod script;

pub use names::Names;
