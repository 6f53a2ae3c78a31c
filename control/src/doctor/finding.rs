//! What the doctor says of one thing: found, wanted, and the command that mends it.

use std::fmt;

use serde::Serialize;

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Pages of 2 MiB and 1 GiB, free and in all, by NUMA node.
    HugePages,
    /// Whether a hugetlbfs is mounted.
    HugePageMount,
    /// Memory for the flow tables.
    Memory,
    /// Whether a NIC and its workers are on one node.
    Numa,
    /// Whether devices are behind an IOMMU.
    Iommu,
    /// PCI ports: who has the NIC.
    Nic,
    /// Drivers and modules of the kernel that ports need.
    Kernel,
    /// Interfaces that ports stand on.
    Interface,
    /// What offloads do to packets on such interfaces.
    Offloads,
    /// Packets that af_packet cuts.
    CutPackets,
    /// Cores of the workers, and who else may run there.
    Cores,
    /// The frequency governor of those cores.
    Governor,
    /// The timestamp counter.
    Clock,
    /// Capabilities.
    Privileges,
    /// Open files, locked memory.
    Limits,
    /// Programs that Crossdock starts.
    Programs,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::HugePages => "huge pages",
            Self::HugePageMount => "hugetlbfs",
            Self::Memory => "memory",
            Self::Numa => "NUMA",
            Self::Iommu => "IOMMU",
            Self::Nic => "NICs",
            Self::Kernel => "kernel",
            Self::Interface => "interfaces",
            Self::Offloads => "offloads",
            Self::CutPackets => "cut packets",
            Self::Cores => "cores",
            Self::Governor => "governor",
            Self::Clock => "clock",
            Self::Privileges => "privileges",
            Self::Limits => "limits",
            Self::Programs => "programs",
        })
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It runs, but slower or with losses.
    Advice,
    /// It does not run with these rules, or loses packets now.
    Fault,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "ok",
            Self::Advice => "advice",
            Self::Fault => "FAULT",
        })
    }
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A program with its arguments.
    Run(Vec<String>),
    /// A file of the kernel's and what to write to it.
    Write {
        /// Its path.
        path: String,
        /// The value.
        value: String,
    },
    /// What no single command does: a sentence.
    Do(String),
}

impl Remedy {
    /// A program with its arguments.
    pub fn run(argv: &[&str]) -> Self {
        Self::Run(argv.iter().map(|&word| word.to_owned()).collect())
    }

    /// A value for a file of the kernel's.
    pub fn write(path: impl Into<String>, value: impl ToString) -> Self {
        Self::Write { path: path.into(), value: value.to_string() }
    }
}

impl fmt::Display for Remedy {
    /// As it is typed into a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(argv) => {
                let words = argv
                    .iter()
                    .map(|word| if word.contains(' ') { format!("'{word}'") } else { word.clone() });
                f.write_str(&words.collect::<Vec<_>>().join(" "))
            }
            Self::Write { path, value } => write!(f, "echo {value} > {path}"),
            Self::Do(sentence) => f.write_str(sentence),
        }
    }
}

impl Serialize for Remedy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// What should be there; empty where it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wanted: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// Whether `--fix` runs the remedy: it takes nothing from anybody, and ends with the next boot.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_safe: bool,
}

impl Finding {
    /// As it should be.
    pub fn fine(check: Check, found: impl Into<String>) -> Self {
        let found = found.into();
        Self { check, verdict: Verdict::Fine, found, wanted: String::new(), remedy: None, is_safe: false }
    }

    /// It could be better.
    pub fn advice(check: Check, found: impl Into<String>, wanted: impl Into<String>, remedy: Remedy) -> Self {
        let (found, wanted) = (found.into(), wanted.into());
        Self { check, verdict: Verdict::Advice, found, wanted, remedy: Some(remedy), is_safe: false }
    }

    /// It does not work like this.
    pub fn fault(check: Check, found: impl Into<String>, wanted: impl Into<String>, remedy: Remedy) -> Self {
        Self { verdict: Verdict::Fault, ..Self::advice(check, found, wanted, remedy) }
    }

    /// The same, for `--fix` to mend.
    #[must_use]
    pub fn safe(self) -> Self {
        Self { is_safe: true, ..self }
    }
}
