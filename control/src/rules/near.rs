//! The near name: what somebody meant who wrote something else.

/// The candidate closest to `written`, when it is close enough to be what was meant: at most one edit (a
/// letter added, lost, changed, or two swapped) in three letters, letter case aside.
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KEYS: [&str; 5] = ["name", "listen", "mode", "scheduler", "local_addresses"];

    #[test]
    fn a_slip_is_understood() {
        for (written, meant) in [
            ("schedular", "scheduler"),
            ("Scheduler", "scheduler"),
            ("lisetn", "listen"),
            ("moed", "mode"),
            ("local_adresses", "local_addresses"),
        ] {
            assert_eq!(nearest(written, KEYS), Some(meant), "{written}");
        }
    }

    #[test]
    fn another_word_is_not() {
        for written in ["health", "x", "", "timeout", "persistence"] {
            assert_eq!(nearest(written, KEYS), None, "{written}");
        }
    }
}
