//! `crossdock import keepalived`: services with their checks from keepalived.conf. VRRP stays with keepalived, which runs on the
//! port's kernel twin; the rules only say that a VIP is announced by somebody else.
//!
//! `lexer` and `tree` know the grammar and no keyword; `service`, `server` and `checker` know those of `virtual_server`.
//!
//! Read first: keepalived.conf(5).

mod checker;
mod lexer;
mod server;
mod service;
mod settings;
mod tree;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use super::draft::{Draft, Note};
use super::{ImportError, Problem};
use crate::ipvsadm::Names;
use crate::ipvsadm::command::Timeouts;
use tree::Statement;

/// What every service may need to know.
struct Context<'a> {
    path: &'a Path,
    names: &'a Names,
    /// Of `global_defs`.
    timeouts: Timeouts,
    /// The blocks of `virtual_server_group`, by name.
    groups: HashMap<&'a str, &'a Statement>,
    /// The names of `vrrp_instance`s that have a VIP.
    instances: HashMap<IpAddr, &'a str>,
}

/// Reads `text` of the file at `path`.
///
/// # Errors
/// Every line that cannot be read.
pub(super) fn read(path: &Path, text: &str, names: &Names) -> Result<Draft, ImportError> {
    let (statements, notes, mut problems) = tree::parse(path, text);
    let mut draft = Draft { notes, ..Draft::default() };
    let mut context = Context {
        path,
        names,
        timeouts: Timeouts::default(),
        groups: HashMap::new(),
        instances: HashMap::new(),
    };
    // keepalived reads the whole file before it looks at any service.
    for statement in &statements {
        context.learn(statement, &mut draft, &mut problems);
    }
    for statement in statements.iter().filter(|statement| statement.keyword() == "virtual_server") {
        draft.services.extend(service::read(statement, &context, &mut problems));
    }
    if problems.is_empty() {
        return Ok(draft);
    }
    // The grammar's come first; the reader goes from top to bottom.
    problems.sort_by(|a, b| (&a.name, a.line).cmp(&(&b.name, b.line)));
    Err(ImportError::new(&path.display().to_string(), problems))
}

impl<'a> Context<'a> {
    /// A problem at a statement.
    fn problem(&self, statement: &Statement, message: impl Into<String>) -> Problem {
        let included = statement.place.included.as_deref().map(str::to_owned);
        let name = included.unwrap_or_else(|| self.path.display().to_string());
        Problem { name, line: statement.place.line, message: message.into() }
    }

    /// What the file says outside of its services.
    fn learn(&mut self, statement: &'a Statement, draft: &mut Draft, problems: &mut Vec<Problem>) {
        let stays = "keepalived's own, and stays in its file";
        match statement.keyword() {
            "virtual_server" => {}
            "global_defs" => self.globals(statement, draft, problems),
            "virtual_server_group" => match statement.argument() {
                Some(name) => {
                    self.groups.insert(name, statement);
                }
                None => problems.push(self.problem(statement, "a group needs a name")),
            },
            "vrrp_instance" => {
                let name = statement.argument().unwrap_or_default();
                for address in addresses(statement) {
                    self.instances.entry(address).or_insert(name);
                }
                if draft.hints.is_empty() {
                    draft.hints.push(
                        "keepalived goes on with VRRP, on the twin of the port: in its file write `interface xd-front`, \
                         and take the blocks of virtual_server out."
                            .to_owned(),
                    );
                }
                draft.notes.push(statement.note("keepalived goes on with it, on the port's twin `xd-front`"));
            }
            keyword if keyword.starts_with("vrrp_") || keyword.starts_with("static_") => {
                draft.notes.push(statement.note(stays));
            }
            "track_group"
            | "bfd_instance"
            | "linkbeat_interfaces"
            | "interface_up_down_delays"
            | "garp_group"
            | "net_namespace"
            | "net_namespace_ipvs"
            | "instance"
            | "use_pid_dir"
            | "linkbeat_use_polling"
            | "child_wait_time"
            | "namespace_with_ipsets" => draft.notes.push(statement.note(stays)),
            "SSL" => {
                let why = "checks show no certificate of their own";
                draft.notes.push(statement.note(why));
            }
            _ => draft.notes.push(
                statement.note("keepalived.conf(5) does not know this word here; is a `{` missing above?"),
            ),
        }
    }

    fn globals(&mut self, statement: &Statement, draft: &mut Draft, problems: &mut Vec<Problem>) {
        let mut others = Vec::new();
        for word in statement.block() {
            match word.keyword() {
                "lvs_timeouts" => match timeouts(word) {
                    Some(timeouts) => self.timeouts = timeouts,
                    None => problems.push(self.problem(word, "lvs_timeouts takes [tcp SECS] [tcpfin SECS] [udp SECS]")),
                },
                "lvs_sync_daemon" => draft.notes.push(word.note(
                    "connections are not told to another director in IPVS's format; directors with the same rules and a hashing \
                     scheduler choose alike",
                )),
                // What Crossdock does in any case: its table is its own.
                "lvs_flush" | "lvs_flush_on_stop" => {}
                _ => others.push(word.keyword()),
            }
        }
        if !others.is_empty() {
            let what = format!("global_defs ({}): {}", statement.place.text(), others.join(", "));
            draft.notes.push(Note::new(what, "about keepalived itself, its mails or VRRP"));
        }
    }
}

/// `tcp SECS`, `tcpfin SECS`, `udp SECS`, some of them.
fn timeouts(statement: &Statement) -> Option<Timeouts> {
    let mut timeouts = Timeouts::default();
    let (pairs, rest) = statement.arguments().as_chunks::<2>();
    for [name, seconds] in pairs {
        let seconds: u32 = seconds.parse().ok()?;
        match name.as_str() {
            "tcp" => timeouts.tcp_s = seconds,
            "tcpfin" => timeouts.tcp_fin_s = seconds,
            "udp" => timeouts.udp_s = seconds,
            _ => return None,
        }
    }
    (rest.is_empty() && !pairs.is_empty()).then_some(timeouts)
}

/// What a VRRP instance announces, without prefix lengths and what else is said about them.
fn addresses(instance: &Statement) -> Vec<IpAddr> {
    let lists = instance.block().iter();
    let lists =
        lists.filter(|list| matches!(list.keyword(), "virtual_ipaddress" | "virtual_ipaddress_excluded"));
    let all = lists.flat_map(|list| list.block()).filter_map(|line| {
        let address = line.keyword().split('/').next()?;
        address.parse().ok()
    });
    all.collect()
}
