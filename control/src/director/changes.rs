//! Changes of the rules that are asked for while they are in force: by the API, by a reload. One after the other, each all or
//! nothing; those that came together go to the workers together.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc::Receiver;
use tracing::{info, warn};

use super::SharedRules;
use super::state::Director;
use crate::changes::{Outcome, Pending, Refusal, Request, Wanted};
use crate::rules::{Diff, Document, Rules};

/// Changes that are made together at most: what waits longer is put in force by a later round.
const TOGETHER_MAX: usize = 256;

/// Changes that follow from the rules in force, and can be made together.
#[derive(Default)]
struct Group {
    document: Document,
    members: Vec<Pending>,
}

/// Makes `first` and whatever waits behind it.
pub(super) async fn follow(
    director: &mut Director,
    first: Pending,
    queue: &mut Receiver<Pending>,
    file: &Path,
) {
    let mut waiting = vec![first];
    while waiting.len() < TOGETHER_MAX {
        let Ok(next) = queue.try_recv() else { break };
        waiting.push(next);
    }
    let mut group = Group { document: director.document().1, members: Vec::new() };
    for pending in waiting {
        if let Wanted::Edits(edits) = &pending.request.wanted
            && !pending.request.is_rehearsal
            && pending.request.expected.is_none()
        {
            let mut document = group.document.clone();
            match edits.iter().try_for_each(|edit| edit.make(&mut document)) {
                Ok(()) => {
                    group.document = document;
                    group.members.push(pending);
                }
                Err(error) => pending.answer(Err(Refusal::Edit(error))),
            }
            continue;
        }
        make_together(director, &mut group, file).await;
        make_alone(director, pending, file).await;
        group.document = director.document().1;
    }
    make_together(director, &mut group, file).await;
}

/// Puts a group in force; where that cannot be, each of it by itself, so that none suffers for another.
async fn make_together(director: &mut Director, group: &mut Group, file: &Path) {
    let members = std::mem::take(&mut group.members);
    if members.len() < 2 {
        for alone in members {
            make_alone(director, alone, file).await;
        }
        return;
    }
    let Ok(diff) = put_in_force(director, &group.document, file, false).await else {
        for member in members {
            make_alone(director, member, file).await;
        }
        return;
    };
    info!("{} changes in force:\n{diff}", members.len());
    let changes = lines(&diff);
    // Each has a revision of its own to go back to.
    let mut document = director.document().1;
    for member in members {
        let Wanted::Edits(edits) = &member.request.wanted else { continue };
        // They could be made in this order a moment ago.
        let _ = edits.iter().try_for_each(|edit| edit.make(&mut document));
        let own = edits.iter().map(ToString::to_string).collect();
        let revision = director.note_revision(document.clone(), member.request.by.clone(), own);
        member.answer(Ok(Outcome { revision, applied: true, changes: changes.clone() }));
    }
}

/// Makes one change, and tells the log.
async fn make_alone(director: &mut Director, pending: Pending, file: &Path) {
    let before = director.document().0;
    let outcome = make(director, &pending.request, file).await;
    if let Ok(Outcome { revision, changes, .. }) = &outcome
        && director.document().0 != before
    {
        info!("in force as revision {revision}, by {}:\n{}", pending.request.by, changes.join("\n"));
    }
    pending.answer(outcome);
}

/// Makes one change.
pub(super) async fn make(
    director: &mut Director,
    request: &Request,
    file: &Path,
) -> Result<Outcome, Refusal> {
    let (current, document) = director.document();
    if request.expected.is_some_and(|expected| expected != current) {
        return Err(Refusal::Stale { revision: current });
    }
    let document = wanted(director, &request.wanted, document, file)?;
    let diff = put_in_force(director, &document, file, request.is_rehearsal).await?;
    let changes = lines(&diff);
    if request.is_rehearsal {
        let revision = if document == director.document().1 { current } else { current + 1 };
        return Ok(Outcome { revision, applied: false, changes });
    }
    if document == director.document().1 {
        return Ok(Outcome { revision: current, applied: true, changes });
    }
    let revision = director.note_revision(document, request.by.clone(), changes.clone());
    Ok(Outcome { revision, applied: true, changes })
}

/// The rules that are asked for.
fn wanted(
    director: &Director,
    wanted: &Wanted,
    mut document: Document,
    file: &Path,
) -> Result<Document, Refusal> {
    match wanted {
        Wanted::Edits(edits) => {
            edits.iter().try_for_each(|edit| edit.make(&mut document)).map_err(Refusal::Edit)?;
            Ok(document)
        }
        Wanted::Rules(text) => {
            // Says what is wrong better than the other reader of TOML.
            Rules::parse(&file.display().to_string(), text).map_err(Refusal::Invalid)?;
            Document::parse(text).map_err(|error| Refusal::Failed(error.to_string()))
        }
        Wanted::Back(to) => {
            let (current, oldest) = director.known_revisions();
            let number = to.or(current.checked_sub(1).filter(|before| *before > 0));
            let found = number.and_then(|number| director.revision_document(number));
            found.ok_or(Refusal::Forgotten { revision: number, oldest })
        }
    }
}

/// Checks `document` and, unless it is a rehearsal, puts it in force.
async fn put_in_force(
    director: &mut Director,
    document: &Document,
    file: &Path,
    is_rehearsal: bool,
) -> Result<Diff, Refusal> {
    let (name, text) = (file.display().to_string(), document.text());
    // Long rules take milliseconds; health checks and the API go on meanwhile.
    let parsed = tokio::task::spawn_blocking(move || Rules::parse(&name, &text)).await;
    let parsed = parsed.map_err(|error| Refusal::Failed(error.to_string()))?;
    let before = director.rules();
    let rules = parsed.map_err(Refusal::Invalid)?.sharing_with(&before);
    let diff = Diff::between(&before, &rules);
    if !diff.needs_restart.is_empty() {
        return Err(Refusal::NeedsRestart(diff.needs_restart));
    }
    if !is_rehearsal && !diff.is_empty() {
        replace(director, Arc::new(rules), before).await.map_err(|reason| {
            Refusal::Failed(format!("the new rules could not be put in force: {reason:#}"))
        })?;
    }
    Ok(diff)
}

/// Puts `rules` in force, or leaves those `before`.
async fn replace(director: &mut Director, rules: SharedRules, before: SharedRules) -> anyhow::Result<()> {
    let Err(reason) = director.apply(rules).await else { return Ok(()) };
    if let Err(second) = director.apply(before).await {
        warn!("putting the rules before back in force: {second:#}");
    }
    Err(reason)
}

fn lines(diff: &Diff) -> Vec<String> {
    diff.to_string().lines().map(str::to_owned).collect()
}
