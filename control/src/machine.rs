//! The machine as its file systems tell: /proc, /sys, /dev and /lib below a root, which in tests is a made-up one.
//!
//! Reads only what is there and makes nothing of what is not: a file that is missing or cannot be read is `None`. Read first:
//! the kernel's admin-guide/abi-testing and proc(5).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where everything about the machine is read.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        Self::below("/")
    }

    /// One whose files stand below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A file's text without the white space around it. `path` begins with a slash.
    pub fn read(&self, path: &str) -> Option<String> {
        // Not read_to_string: the names in an environment or a command line are bytes.
        let bytes = fs::read(self.at(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one number.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The names in a directory, sorted; none where there is no such directory.
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What a symbolic link points to: the last part of it.
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether there is such a file or directory.
    pub fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// Writes `value` to a file of the kernel's.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        fs::write(self.at(path), value)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
    }
}

/// The numbers of a list such as `0-3,8`, as the kernel writes sets of processors and nodes. What is no number is left out.
pub fn numbers(list: &str) -> Vec<usize> {
    let parts = list.split(',').filter(|part| !part.is_empty());
    let ranges = parts.filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    });
    ranges.flatten().collect()
}

/// The other way round: `0-3,8`.
pub fn list_of(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine made of these files; a text that begins with `-> ` makes a symbolic link.
    pub(crate) fn made_up(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::below(directory.path());
        for (path, text) in files {
            let at = machine.at(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, at).unwrap(),
                None => fs::write(at, text).unwrap(),
            }
        }
        (directory, machine)
    }

    #[test]
    fn sets_of_numbers_are_read_and_written_as_the_kernel_does() {
        assert_eq!(numbers("0-3,8\n".trim()), [0, 1, 2, 3, 8]);
        assert_eq!(numbers(""), [0; 0]);
        assert_eq!(numbers("x,2-1,5"), [5]);
        assert_eq!(list_of(&[0, 1, 2, 3, 8]), "0-3,8");
        assert_eq!(list_of(&[]), "");
    }

    #[test]
    fn what_is_not_there_is_none_and_what_is_there_comes_without_its_line_end() {
        let (_directory, machine) =
            made_up(&[("/proc/a", " 7\n"), ("/sys/driver", "-> ../../drivers/e1000e")]);
        assert_eq!(machine.number("/proc/a"), Some(7));
        assert_eq!(machine.read("/proc/b"), None);
        assert_eq!(machine.link_name("/sys/driver").as_deref(), Some("e1000e"));
        assert_eq!(machine.list("/proc"), ["a"]);
        assert_eq!(machine.list("/nowhere"), [""; 0]);
    }
}
