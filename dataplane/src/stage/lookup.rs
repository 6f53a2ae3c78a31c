//! lookup: the flow's entry, if the worker knows it. First every tag is compared and the likely entries are
//! fetched, then every key; so the misses of the caches overlap.

use crate::burst::Burst;
use crate::flow::FlowTable;
use crate::index::EntryIndex;
use crate::verdict::Verdict;

/// Finds the entries of the burst.
pub fn run<P>(burst: &mut Burst<P>, table: &FlowTable) {
    let count = burst.packets.len();
    for row in 0..count {
        // Rows that will not be forwarded hold a stale hash: harmless, and cheaper than to ask.
        burst.entries[row] = table.candidate(burst.hashes[row]);
    }
    burst.has_misses = false;
    for row in 0..count {
        if burst.verdicts[row] == Verdict::Forward {
            burst.entries[row] = table.confirm(burst.entries[row], burst.hashes[row], &burst.keys[row]);
            burst.has_misses |= burst.entries[row] == EntryIndex::NONE;
        }
    }
}
