//! Changes of the rules while they are in force: what can be asked for, and what is said to it. Each is a transaction: all of it
//! is in force when it is answered, or nothing of it, and it has a revision number.
//!
//! Nothing here does it: `director` takes what [`queue`] holds, one after the other. [`revisions`] remembers what was in force.

pub mod edit;
pub mod queue;
pub mod revisions;

pub use edit::Edit;
pub use queue::{Changer, Pending};
pub use revisions::{Revision, Revisions};

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rules::{Diagnostics, EditError};

/// What shall be in force.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// The rules in this text, in place of all there are.
    Rules(String),
    /// The rules in force with these changes, made in this order.
    Edits(Vec<Edit>),
    /// The rules that were in force as this revision; without one, as the revision before.
    Back(Option<u64>),
}

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What.
    pub wanted: Wanted,
    /// Only if this revision is in force.
    pub expected: Option<u64>,
    /// It is only told what would change.
    pub is_rehearsal: bool,
    /// Who asks, for the list of revisions.
    pub by: String,
}

/// What has become of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The revision that is in force now, or would be.
    pub revision: u64,
    /// Whether it is in force in every worker; not where it was only asked what would change.
    pub applied: bool,
    /// What differs from before, a line each: `+` added, `-` removed, `~` changed. Changes that came together are told together.
    pub changes: Vec<String>,
}

/// Why a change was not made. Nothing has changed.
#[derive(Debug)]
pub enum Refusal {
    /// Another revision is in force than the one it was meant for.
    Stale {
        /// The one in force.
        revision: u64,
    },
    /// What it names is not there, or is there already.
    Edit(EditError),
    /// The rules would have errors.
    Invalid(Diagnostics),
    /// What cannot change while the process runs, a sentence each.
    NeedsRestart(Vec<String>),
    /// That revision is not remembered.
    Forgotten {
        /// The one asked for, if any was.
        revision: Option<u64>,
        /// The oldest there is.
        oldest: u64,
    },
    /// It could not be put in force.
    Failed(String),
}

/// What is wrong, in one line.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { revision } => {
                write!(f, "the rules have changed meanwhile: revision {revision} is in force")
            }
            Self::Edit(error) => f.write_str(&error.detail),
            Self::Invalid(diagnostics) => write!(f, "the rules would not be valid: {diagnostics}"),
            Self::NeedsRestart(lines) => write!(f, "a restart is needed for: {}", lines.join("; ")),
            Self::Forgotten { revision: Some(revision), oldest } => {
                write!(f, "revision {revision} is not remembered; the oldest is {oldest}")
            }
            Self::Forgotten { revision: None, .. } => f.write_str("there is no revision before this one"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}
