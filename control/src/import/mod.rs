//! Rules from what people of LVS have: the output of `ipvsadm -S` or a script of such commands, and keepalived.conf. What has no
//! counterpart becomes a comment beside the service or backend it belongs to, and is counted; nothing is lost in silence.
//!
//! `ipvsadm` and `keepalived` read into a `draft`, `fit` makes it what the rules can say, `text` writes it. What becomes of what
//! is told in docs/import.md.

use std::fmt;
use std::path::Path;

mod draft;
mod fit;
mod ipvsadm;
mod keepalived;
mod text;

use draft::Note;

use crate::ipvsadm::Names;
use crate::ipvsadm::command::Timeouts;
use crate::rules::{Diagnostics, Protocol, Rules};

/// What the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Commands of ipvsadm.
    Ipvsadm,
    /// keepalived.conf(5)
    Keepalived,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipvsadm => "ipvsadm",
            Self::Keepalived => "keepalived",
        })
    }
}

/// What LVS's files do not say, since the kernel knows it: the port that packets come by.
#[derive(Clone, Debug, Default)]
pub struct PortSettings {
    /// `device` of the rules; none is a place to fill in.
    pub device: Option<String>,
    /// `addresses` of the rules; none is a place to fill in.
    pub addresses: Vec<String>,
}

impl PortSettings {
    /// Whether the rules take them.
    ///
    /// # Errors
    /// What the rules say against them.
    pub fn check(&self) -> Result<(), Diagnostics> {
        Rules::parse("--device, --address", &text::port_alone(self)).map(|_| ())
    }
}

/// Rules, and what they came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// A rules file.
    pub rules: String,
    /// Services in force.
    pub service_count: usize,
    /// Backends in force.
    pub backend_count: usize,
    /// Comments that begin `# not imported:`.
    pub not_imported_count: usize,
}

impl fmt::Display for Imported {
    /// The summary, one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service_count, backend_count, not_imported_count, .. } = self;
        let plural = |count: &usize| if *count == 1 { "" } else { "s" };
        write!(
            f,
            "{service_count} service{}, {backend_count} backend{}",
            plural(service_count),
            plural(backend_count)
        )?;
        match not_imported_count {
            0 => f.write_str(", all of it imported"),
            1 => f.write_str("; one thing was not imported: see the comment `# not imported:`"),
            more => write!(f, "; {more} things were not imported: see the comments `# not imported:`"),
        }
    }
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub name: String,
    /// From 1 on; 0 is the file as a whole.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.name, self.message),
            line => write!(f, "{}:{line}: {}", self.name, self.message),
        }
    }
}

/// Everything that is wrong with the input, in its order. `Display` is one line; [`Self::problems`] has the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    name: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ImportError {
    fn new(name: &str, problems: Vec<Problem>) -> Self {
        Self { name: name.to_owned(), problems }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{}: {count} error{}; nothing was imported", self.name, if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for ImportError {}

/// Imports `input`, which was read from `path`: includes lie beside it. `names` are those of hosts and ports in it.
///
/// # Errors
/// Every line that cannot be read.
pub fn import(
    format: Format,
    path: &Path,
    input: &[u8],
    names: &Names,
    port: &PortSettings,
) -> Result<Imported, ImportError> {
    let name = path.display().to_string();
    let text = utf8(&name, input).map_err(|problem| ImportError::new(&name, vec![problem]))?;
    let mut draft = match format {
        Format::Ipvsadm => ipvsadm::read(&name, text, names)?,
        Format::Keepalived => keepalived::read(path, text, names)?,
    };
    fit::fit(&mut draft, port);
    Ok(text::write(&draft, &format!("crossdock import {format} {name}"), port))
}

fn utf8<'a>(name: &str, input: &'a [u8]) -> Result<&'a str, Problem> {
    str::from_utf8(input).map_err(|error| {
        let before = input.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let byte = input.get(error.valid_up_to()).copied().unwrap_or_default();
        let message = format!("byte 0x{byte:02x} is not UTF-8; is this the right file?");
        Problem { name: name.to_owned(), line, message }
    })
}

/// Why a persistence engine has no counterpart.
const NO_ENGINE: &str = "no persistence engine is known here; clients are told apart by their address";

/// A service of packets that the firewall marked.
fn mark_note(what: &str, mark: u32) -> Note {
    let why = format!(
        "there are no firewall marks here; put what the firewall gives mark {mark} into `listen`, as a list, and take the `#` away"
    );
    Note::new(what, why)
}

/// Timeouts that are not 0, as keys of `[service.timeouts]` of a service of `protocol`.
fn timeouts_of(protocol: Protocol, timeouts: Timeouts) -> Vec<(&'static str, u32)> {
    let all = match protocol {
        Protocol::Tcp => vec![("established", timeouts.tcp_s), ("fin_wait", timeouts.tcp_fin_s)],
        Protocol::Udp => vec![("udp", timeouts.udp_s)],
        Protocol::Sctp | Protocol::Icmp => Vec::new(),
    };
    all.into_iter().filter(|(_, seconds)| *seconds > 0).collect()
}
