//! The rules that are in force, as typed, and those that were: what a change is made of, and what one can go back to.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rules::Document;

/// Revisions that are remembered. Each costs a pointer a service, and what it changed.
const REMEMBERED: usize = 256;

/// A revision, for the list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its number: 1 at the start, one more with each change.
    pub revision: u64,
    /// When it came in force, in seconds since 1970.
    pub at: u64,
    /// Who asked for it.
    pub by: String,
    /// What it changed, a line each.
    pub changes: Vec<String>,
}

struct Entry {
    revision: Revision,
    document: Document,
}

/// The revision in force, and those before it. There is always one.
pub struct Revisions {
    entries: VecDeque<Entry>,
    current: u64,
    document: Document,
}

impl Revisions {
    /// The first, out of the rules file.
    pub fn new(document: Document, by: impl Into<String>) -> Self {
        let mut revisions = Self { entries: VecDeque::new(), current: 0, document: Document::default() };
        revisions.push(document, by, Vec::new());
        revisions
    }

    /// Takes up one that is in force; returns its number.
    pub fn push(&mut self, document: Document, by: impl Into<String>, changes: Vec<String>) -> u64 {
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
        }
        self.current += 1;
        self.document = document.clone();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let revision = Revision { revision: self.current, at, by: by.into(), changes };
        self.entries.push_back(Entry { revision, document });
        self.current
    }

    /// The number of the one in force.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// The rules in force.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The rules as they were then.
    pub fn find(&self, revision: u64) -> Option<&Document> {
        let entry = self.entries.iter().find(|entry| entry.revision.revision == revision)?;
        Some(&entry.document)
    }

    /// The number of the oldest that is remembered.
    pub fn oldest(&self) -> u64 {
        self.entries.front().map_or(self.current, |entry| entry.revision.revision)
    }

    /// All that are remembered, the newest first.
    pub fn list(&self) -> Vec<Revision> {
        self.entries.iter().rev().map(|entry| entry.revision.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_force_is_found_again_until_it_is_forgotten() {
        let document = |number: u64| Document::parse(&format!("# {number}\n")).unwrap();
        let mut revisions = Revisions::new(document(1), "the start");
        assert_eq!((revisions.current(), revisions.oldest()), (1, 1));
        for number in 2..=300 {
            let given = revisions.push(document(number), "somebody", vec![format!("~ {number}")]);
            assert_eq!(given, number);
        }
        assert_eq!(revisions.oldest(), 300 - REMEMBERED as u64 + 1);
        assert_eq!(revisions.find(299).unwrap().text(), "# 299\n");
        assert_eq!(revisions.document().text(), "# 300\n");
        assert!(revisions.find(7).is_none());
        assert_eq!(revisions.list()[0].changes, ["~ 300"]);
    }
}
