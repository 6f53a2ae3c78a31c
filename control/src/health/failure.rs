//! Why a check did not pass, and whose fault that is.

use std::io;

use nix::errno::Errno;

/// What is told of a failure at most.
const TOLD_CHARS_MAX: usize = 300;

/// Why a check did not pass: a sentence in lower case without its full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The backend cannot serve.
    OfBackend(String),
    /// The check could not be done: nothing is known of the backend.
    OfThisHost(String),
}

impl Failure {
    /// The backend is not as it should be. Part of why may be its own words, so control characters are shown, and the end is cut off.
    pub(super) fn backend(why: impl AsRef<str>) -> Self {
        let shown =
            why.as_ref().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
        Self::OfBackend(shown.take(TOLD_CHARS_MAX).collect())
    }

    /// What the kernel said while `what` was done.
    pub(super) fn of_io(error: &io::Error) -> Self {
        let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
            return Self::backend(error.to_string());
        };
        let why = lower_case(errno.desc());
        match errno {
            Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM
            | Errno::ENOBUFS
            | Errno::EADDRNOTAVAIL
            | Errno::EAGAIN => Self::OfThisHost(format!("not checked: {why}")),
            // A packet filter on this host.
            Errno::EPERM | Errno::EACCES => {
                Self::OfThisHost(format!("not checked: {why} (a firewall here?)"))
            }
            _ => Self::OfBackend(why),
        }
    }
}

fn lower_case(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_sentences_and_say_whose_fault_it_is() {
        let of = |errno: Errno| Failure::of_io(&io::Error::from(errno));
        assert_eq!(of(Errno::ECONNREFUSED), Failure::backend("connection refused"));
        assert_eq!(of(Errno::EHOSTUNREACH), Failure::backend("no route to host"));
        assert_eq!(of(Errno::EMFILE), Failure::OfThisHost("not checked: too many open files".into()));
    }
}
