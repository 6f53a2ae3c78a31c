//! `crossdock import ipvsadm`: commands of ipvsadm are carried out on a table in memory, as the kernel would on its own, and what is
//! in the table at the end is imported. So a script that deletes and edits comes to what it comes to under LVS.

use std::net::SocketAddr;

use super::draft::{Backend, Draft, Listen, Note, Persistence, Service, Way};
use super::{ImportError, Problem};
use crate::ipvsadm::Names;
use crate::ipvsadm::command::{
    Command, DaemonState, Forwarding, ServerOptions, ServiceOptions, Timeouts, VirtualService,
};
use crate::ipvsadm::script::{Statement, statements};
use crate::rules::Protocol;

/// The kernel's table.
#[derive(Default)]
struct Table {
    services: Vec<Entry>,
    timeouts: Timeouts,
    notes: Vec<Note>,
}

struct Entry {
    line: usize,
    service: VirtualService,
    options: ServiceOptions,
    /// In the order in which they were added.
    servers: Vec<(SocketAddr, ServerOptions)>,
}

/// Reads `text`, which `name` is the name of in messages.
///
/// # Errors
/// Every line that ipvsadm or the kernel would refuse.
pub(super) fn read(name: &str, text: &str, names: &Names) -> Result<Draft, ImportError> {
    let statements = statements(text, names);
    // In the output of `ipvsadm -S` there are options alone; other lines there are damage, and in a script they are what
    // else it does.
    let is_script = text.starts_with("#!") || text.contains("ipvsadm");
    let mut table = Table::default();
    let mut problems = Vec::new();
    for (line, statement) in statements {
        let done = match statement {
            Statement::Command(command) => table.carry_out(line, command),
            Statement::Other(words) if is_script => {
                table.notes.push(Note::new(format!("line {line}: {words}"), "not a command of ipvsadm"));
                Ok(())
            }
            Statement::Other(words) => {
                Err(format!("{words:?} is no command of ipvsadm, which begins with `-` or `ipvsadm`"))
            }
            Statement::Wrong(error) => Err(error.to_string()),
            Statement::Unclosed => Err("a quote is not closed".to_owned()),
        };
        if let Err(message) = done {
            problems.push(Problem { name: name.to_owned(), line, message });
        }
    }
    if !problems.is_empty() {
        return Err(ImportError::new(name, problems));
    }
    Ok(table.finish())
}

impl Table {
    /// The message is the kernel's, and what to do.
    fn carry_out(&mut self, line: usize, command: Command) -> Result<(), String> {
        match command {
            Command::AddService(service, options) => {
                if let Some(entry) = self.services.iter().find(|entry| entry.service == service) {
                    return Err(format!(
                        "service already exists, since line {}; edit it with -E",
                        entry.line
                    ));
                }
                self.services.push(Entry { line, service, options, servers: Vec::new() });
            }
            Command::EditService(service, options) => self.entry(service)?.options = options,
            Command::DeleteService(service) => {
                self.entry(service)?;
                self.services.retain(|entry| entry.service != service);
            }
            Command::AddServer(service, server, options) => {
                let entry = self.entry(service)?;
                if entry.servers.iter().any(|(address, _)| *address == server) {
                    return Err(format!("destination {server} already exists; edit it with -e"));
                }
                entry.servers.push((server, options));
            }
            Command::EditServer(service, server, options) => *self.server(service, server)? = options,
            Command::DeleteServer(service, server) => {
                self.server(service, server)?;
                self.entry(service)?.servers.retain(|(address, _)| *address != server);
            }
            Command::Clear => self.services.clear(),
            Command::SetTimeouts(timeouts) => self.set(timeouts),
            Command::StartDaemon(daemon) => {
                let state = if daemon.state == DaemonState::Master { "master" } else { "backup" };
                let what = format!("line {line}: --start-daemon {state}");
                let why = "connections are not told to another director in IPVS's format; directors with the same rules and a \
                           hashing scheduler choose alike";
                self.notes.push(Note::new(what, why));
            }
            Command::Restore => {
                let why = "the commands come from another file: import that one";
                self.notes.push(Note::new(format!("line {line}: --restore"), why));
            }
            // These set nothing.
            Command::Save { .. }
            | Command::List(_)
            | Command::Zero(_)
            | Command::StopDaemon(_)
            | Command::Help => {}
        }
        Ok(())
    }

    fn entry(&mut self, service: VirtualService) -> Result<&mut Entry, String> {
        let missing = || format!("no such service: {}; add it with -A first", service_text(service));
        self.services.iter_mut().find(|entry| entry.service == service).ok_or_else(missing)
    }

    fn server(&mut self, service: VirtualService, server: SocketAddr) -> Result<&mut ServerOptions, String> {
        let missing = || format!("no such destination: {server}; add it with -a first");
        let mut servers = self.entry(service)?.servers.iter_mut();
        servers.find(|(address, _)| *address == server).map(|(_, options)| options).ok_or_else(missing)
    }

    /// 0 leaves one as it is.
    fn set(&mut self, timeouts: Timeouts) {
        let Timeouts { tcp_s, tcp_fin_s, udp_s } = timeouts;
        let known = &mut self.timeouts;
        for (known, new) in
            [(&mut known.tcp_s, tcp_s), (&mut known.tcp_fin_s, tcp_fin_s), (&mut known.udp_s, udp_s)]
        {
            if new > 0 {
                *known = new;
            }
        }
    }

    fn finish(self) -> Draft {
        let timeouts = self.timeouts;
        let services = self.services.into_iter().map(|entry| entry.finish(timeouts)).collect();
        Draft { hints: Vec::new(), notes: self.notes, services }
    }
}

impl Entry {
    fn finish(self, timeouts: Timeouts) -> Service {
        let ServiceOptions { scheduler, flags, persistence, persistence_engine, one_packet } = self.options;
        let origin = format!("{} (line {})", service_text(self.service), self.line);
        let mut service = Service {
            origin,
            scheduler,
            hashes_l4_port: flags.l4_port,
            fallback: flags.fallback,
            one_packet,
            ..Service::default()
        };
        service.persistence = persistence.map(|persistence| Persistence {
            timeout_s: persistence.timeout_s,
            prefix_len: persistence.prefix_len,
        });
        if flags.third {
            service.note("-b flag-3", "no scheduler reads it");
        }
        if let Some(engine) = persistence_engine {
            service.note(format!("--pe {engine}"), super::NO_ENGINE);
        }
        match self.service {
            VirtualService::Address { protocol, address, l4_port } => {
                service.listens.push(Listen { protocol, vip: address, l4_port });
                service.timeouts = super::timeouts_of(protocol, timeouts);
            }
            VirtualService::Mark { mark, .. } => {
                service.name = format!("mark-{mark}");
                service.left_out = Some(super::mark_note(&format!("-f {mark}"), mark));
            }
        }
        service.backends =
            self.servers.into_iter().map(|(server, options)| backend(server, &options)).collect();
        service
    }
}

fn backend(server: SocketAddr, options: &ServerOptions) -> Backend {
    let way = match options.forwarding {
        Forwarding::Gatewaying => Way::Dr,
        Forwarding::Masquerading => Way::Nat,
        Forwarding::Tunnel(tunnel) => Way::Tunnel(tunnel),
    };
    Backend {
        weight: options.weight,
        max_connections: options.upper_threshold,
        resume_below: options.lower_threshold,
        ..Backend::new(server.ip(), Some(server.port()).filter(|l4_port| *l4_port > 0), way)
    }
}

/// As ipvsadm names it.
fn service_text(service: VirtualService) -> String {
    match service {
        VirtualService::Mark { mark, is_ipv6 } => format!("-f {mark}{}", if is_ipv6 { " -6" } else { "" }),
        VirtualService::Address { protocol, address, l4_port } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                _ => "--sctp-service",
            };
            format!("{option} {}", SocketAddr::new(address, l4_port))
        }
    }
}
