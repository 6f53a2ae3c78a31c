//! lookup: the flow's entry, if the worker knows it. First every tag is compared and the likely entries are
//! fetched, then every key; so the misses of the caches overlap.

use crate::burst::Burst;
use crate::flow::{Entry, FlowTable};
use crate::index::EntryIndex;
use crate::verdict::Verdict;

/// Finds the entries of the burst.
pub fn run<P>(burst: &mut Burst<P>, table: &FlowTable) {
    let count = burst.packets.len();
    for finding in burst.findings.iter_mut().take(count) {
        // Packets that will not be forwarded have a stale hash: harmless, and cheaper than to ask.
        finding.entry = table.candidate(finding.hash);
    }
    burst.has_misses = false;
    for finding in burst.findings.iter_mut().take(count) {
        if finding.verdict == Verdict::Forward {
            finding.entry = table.confirm(finding.entry, finding.hash, &finding.key);
            if finding.shape.tcp_flags.opens() && table.entry(finding.entry).is_some_and(Entry::is_over) {
                // A client that uses its port again: the connection before is over, this one is new.
                finding.entry = EntryIndex::NONE;
            }
            burst.has_misses |= finding.entry == EntryIndex::NONE;
        }
    }
}
