//! The rules: a TOML file in, plain checked data out, or every error in it at once.
//!
//! Two types, and one way between them: `file` is what was typed (with its places in the source), [`Rules`]
//! is what is valid; `check` alone rejects, and nobody validates again. [`Diff`] says what a reload changes.
//! Nothing here looks at the machine: whether an interface exists is found out at launch.

use std::fs;
use std::path::Path;

pub mod build;
mod check;
mod checked;
mod device;
mod diff;
mod document;
mod drains;
mod error;
mod fields;
mod file;
mod health;
mod near;
mod nested;
mod paths;
#[cfg(test)]
mod policy_tests;
mod ramps;
pub mod routes;
mod schedulers;
pub mod slots;
pub mod steering;
#[cfg(test)]
mod tests;
mod tls;
mod values;
mod words;

pub use checked::{
    Announce, Backend, BackendState, CORE_COUNT_MAX, Carrier, Checks, ClientAddress, Control, Dataplane,
    Decap, Device, Endpoint, Fate, Flows, HashKey, Idle, L4Ports, Limits, Listen, MTU_MIN, MTU_MIN_IPV6,
    MacAddress, Memory, Mode, Mss, Neighbour, NoBackend, NoFlow, OnTimeout, Persistence, Policy, Port,
    Prefix, Protocol, Remote, Reuse, Rules, SchedulerKind, SchedulerSettings, Service, SlowPath, Source,
    Thresholds, Timeouts, Tunnel, WEIGHT_MAX, Workers,
};
pub use device::{KernelDriver, twin_ifname};
pub use diff::{BackendChange, Diff, ServiceChange};
pub use document::{Document, EditError, Values};
pub use error::Diagnostics;
pub use health::{
    Argv, Check, CheckPlace, DnsCheck, GrpcCheck, Health, HttpCheck, Initial, PassiveCheck, StatusRanges,
    UdpCheck, Via,
};
pub(crate) use near::nearest;
pub use nested::{Nested, nested};
pub use tls::{ServerTls, Tls};
pub(crate) use values::is_host;
pub use words::no_flow_word;

use error::{Problem, Problems};
use file::File;
use toml::de::DeTable;

impl Rules {
    /// Reads and checks the rules file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it; when it cannot be read or is not UTF-8, that alone.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        Self::read(path).map(|(rules, _)| rules)
    }

    /// The same, with the text that was read.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read(path: &Path) -> Result<(Self, String), Diagnostics> {
        let name = path.display().to_string();
        let alone = |problem: Problem, source: &str| {
            let mut problems = Problems::default();
            problems.push(problem);
            Diagnostics::new(&name, source, problems)
        };
        let bytes = fs::read(path)
            .map_err(|error| alone(Problem::new(format!("cannot read the rules: {error}")), ""))?;
        match str::from_utf8(&bytes) {
            Ok(text) => Ok((Self::parse(&name, text)?, text.to_owned())),
            Err(error) => {
                let start = error.valid_up_to();
                let byte = bytes.get(start).copied().unwrap_or_default();
                // Everything before is UTF-8, and what replaces the rest begins at the same place.
                let source = String::from_utf8_lossy(&bytes);
                let problem = Problem::new(format!("not UTF-8: byte 0x{byte:02x} at offset {start}"));
                let end = start + char::REPLACEMENT_CHARACTER.len_utf8();
                Err(alone(problem.at(start..end).help("rules are TOML, and TOML is UTF-8"), &source))
            }
        }
    }

    /// Checks the rules in `text`; `name` is the file in messages, and where that lies, files lie that the rules name.
    ///
    /// # Errors
    /// Everything that is wrong: syntax errors if there are any (the rest of a file that is not TOML is
    /// guesswork), else every unknown key, wrong type, wrong value and contradiction.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut problems = Problems::default();
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        for error in &syntax_errors {
            problems.push(syntax_problem(error, text));
        }
        let rules = if syntax_errors.is_empty() {
            let file = File::read(&document, &mut problems);
            let directory = Path::new(name).parent().unwrap_or(Path::new(""));
            check::check(&file, directory, &mut problems)
        } else {
            None
        };
        rules.ok_or_else(|| Diagnostics::new(name, text, problems))
    }
}

fn syntax_problem(error: &toml::de::Error, text: &str) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    let is_value =
        text.get(..span.start).is_some_and(|before| before.trim_end_matches([' ', '\t']).ends_with('='));
    let bare_word =
        is_value && text.get(span.clone()).is_some_and(|found| found.starts_with(char::is_alphabetic));
    let problem = Problem::new(format!("not TOML: {}", error.message().replace('\n', "; "))).at(span);
    if bare_word { problem.help("a string stands in quotes: key = \"value\"") } else { problem }
}
