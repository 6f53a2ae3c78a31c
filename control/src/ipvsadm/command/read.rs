//! From options to a command: each value by itself, then what the command needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    Checksum, Command, CommandError, Daemon, DaemonState, Forwarding, List, Listing, Persistence,
    SchedulerFlags, ServerOptions, ServiceOptions, Timeouts, Tunnel, VirtualService,
};
use crate::ipvsadm::Names;
use crate::ipvsadm::options::{Opt, Options, SERVICES};
use crate::rules::Protocol;

/// ipvsadm's.
const SCHEDULER_DEFAULT: &str = "wlc";
/// The kernel's, measured.
const PERSISTENCE_DEFAULT_S: u32 = 360;

type Result<T> = std::result::Result<T, CommandError>;

impl Command {
    /// Reads the words of one command line, without the program's name. No word at all is a list, as for ipvsadm.
    ///
    /// # Errors
    /// The first thing that ipvsadm would refuse.
    pub fn read(words: &[String], names: &Names) -> Result<Self> {
        if words.is_empty() {
            return Ok(Self::List(List::default()));
        }
        let options = Options::read(words)?;
        let command = options.command.ok_or(CommandError::NoCommand)?;
        if let Some(opt) = options.values.keys().find(|opt| !opt.suits(command)) {
            return Err(CommandError::Illegal { option: opt.name(), with: command.name() });
        }
        let words_taken = match command {
            Opt::Set => 3,
            Opt::StartDaemon | Opt::StopDaemon => 1,
            _ => 0,
        };
        if let Some(word) = options.rest.get(words_taken) {
            return Err(CommandError::Surplus { word: word.clone() });
        }
        let service = || service(&options, command, names);
        Ok(match command {
            Opt::AddService => {
                let service = service()?;
                Self::AddService(service, service_options(&options, service)?)
            }
            Opt::EditService => {
                let service = service()?;
                Self::EditService(service, service_options(&options, service)?)
            }
            Opt::DeleteService => Self::DeleteService(service()?),
            Opt::AddServer => {
                let service = service()?;
                Self::AddServer(
                    service,
                    server(&options, command, service, names)?,
                    server_options(&options)?,
                )
            }
            Opt::EditServer => {
                let service = service()?;
                Self::EditServer(
                    service,
                    server(&options, command, service, names)?,
                    server_options(&options)?,
                )
            }
            Opt::DeleteServer => {
                let service = service()?;
                Self::DeleteServer(service, server(&options, command, service, names)?)
            }
            Opt::Clear => Self::Clear,
            Opt::Restore => Self::Restore,
            Opt::Save => Self::Save { numeric: options.has(Opt::Numeric) },
            Opt::List => Self::List(list(&options, service_if_any(&options, names)?)?),
            Opt::Zero => Self::Zero(service_if_any(&options, names)?),
            Opt::Set => Self::SetTimeouts(timeouts(&options.rest)?),
            Opt::StartDaemon => {
                let settings = options.values.iter();
                let settings = settings.filter_map(|(opt, value)| Some((opt.name(), value.clone()?)));
                Self::StartDaemon(Daemon {
                    state: daemon_state(&options, command)?,
                    settings: settings.collect(),
                })
            }
            Opt::StopDaemon => Self::StopDaemon(daemon_state(&options, command)?),
            _ => Self::Help,
        })
    }
}

fn service(options: &Options, command: Opt, names: &Names) -> Result<VirtualService> {
    let needs = CommandError::Needs { command: command.name(), option: "service-address" };
    service_if_any(options, names)?.ok_or(needs)
}

fn service_if_any(options: &Options, names: &Names) -> Result<Option<VirtualService>> {
    let mut written = SERVICES.into_iter().filter_map(|opt| Some((opt, options.value(opt)?)));
    let Some((opt, text)) = written.next() else { return Ok(None) };
    if written.next().is_some() {
        return Err(CommandError::TwoServices);
    }
    let protocol = match opt {
        Opt::TcpService => Protocol::Tcp,
        Opt::UdpService => Protocol::Udp,
        Opt::SctpService => Protocol::Sctp,
        _ => {
            let mark = number(opt, text, 1, "a number greater than zero")?;
            return Ok(Some(VirtualService::Mark { mark, is_ipv6: options.has(Opt::Ipv6) }));
        }
    };
    if options.has(Opt::Ipv6) {
        return Err(CommandError::Illegal { option: Opt::Ipv6.name(), with: opt.name() });
    }
    let (address, l4_port) = endpoint(opt, text, protocol, names)?;
    Ok(Some(VirtualService::Address { protocol, address, l4_port: l4_port.unwrap_or(0) }))
}

/// `-r`: without a port it is reached at the service's; of a marked packet the port stays what it is.
fn server(options: &Options, command: Opt, service: VirtualService, names: &Names) -> Result<SocketAddr> {
    let needs = CommandError::Needs { command: command.name(), option: Opt::RealServer.name() };
    let text = options.value(Opt::RealServer).ok_or(needs)?;
    let (protocol, of_service) = match service {
        VirtualService::Address { protocol, l4_port, .. } => (protocol, l4_port),
        VirtualService::Mark { .. } => (Protocol::Tcp, 0),
    };
    let (address, l4_port) = endpoint(Opt::RealServer, text, protocol, names)?;
    Ok(SocketAddr::new(address, l4_port.unwrap_or(of_service)))
}

/// `host[:port]`; an IPv6 address may stand in brackets.
fn endpoint(opt: Opt, text: &str, protocol: Protocol, names: &Names) -> Result<(IpAddr, Option<u16>)> {
    let wrong = |allowed| CommandError::Value { option: opt.name(), written: text.to_owned(), allowed };
    if text.contains('$') {
        return Err(wrong(
            "host[:port]; a shell's variables are not known here: take the output of `ipvsadm -S -n`",
        ));
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok((address.into(), None));
    }
    let (address, l4_port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let address: Ipv6Addr = address.parse().map_err(|_| wrong("`[IPv6 address]:port`"))?;
            let l4_port = match rest.strip_prefix(':') {
                None if !rest.is_empty() => return Err(wrong("`[IPv6 address]:port`")),
                l4_port => l4_port,
            };
            (address.into(), l4_port)
        }
        None => {
            let (host, l4_port) =
                text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let address = host.parse().ok().or_else(|| names.host(host));
            (address.ok_or_else(|| wrong("an address, or the name of a host that resolves here"))?, l4_port)
        }
    };
    let l4_port = l4_port.map(|text| {
        let l4_port = text.parse().ok().or_else(|| names.l4_port(text, protocol));
        l4_port.ok_or_else(|| wrong("a port of 0 to 65535, or a name that is in /etc/services"))
    });
    Ok((address, l4_port.transpose()?))
}

fn service_options(options: &Options, service: VirtualService) -> Result<ServiceOptions> {
    let scheduler = options.value(Opt::Scheduler).unwrap_or(SCHEDULER_DEFAULT);
    Ok(ServiceOptions {
        scheduler: scheduler.to_owned(),
        flags: match options.value(Opt::SchedulerFlags) {
            Some(text) => scheduler_flags(text, scheduler)?,
            None => SchedulerFlags::default(),
        },
        persistence: persistence(options, service)?,
        persistence_engine: options.value(Opt::PersistenceEngine).map(str::to_owned),
        one_packet: options.has(Opt::OnePacket),
    })
}

fn scheduler_flags(text: &str, scheduler: &str) -> Result<SchedulerFlags> {
    let mut flags = SchedulerFlags::default();
    for flag in text.split(',') {
        let (name, of) = match flag.split_once('-') {
            Some((of @ ("sh" | "mh"), name)) => (name, Some(of)),
            _ => (flag, None),
        };
        if of.is_some_and(|of| of != scheduler) {
            return Err(CommandError::SchedulerFlag {
                flag: flag.to_owned(),
                scheduler: scheduler.to_owned(),
            });
        }
        match (name, of) {
            ("flag-1", None) | ("fallback", Some(_)) => flags.fallback = true,
            ("flag-2", None) | ("port", Some(_)) => flags.l4_port = true,
            ("flag-3", None) => flags.third = true,
            _ => {
                return Err(CommandError::Value {
                    option: Opt::SchedulerFlags.name(),
                    written: text.to_owned(),
                    allowed: "sh-fallback, sh-port, mh-fallback, mh-port, flag-1, flag-2, flag-3, with commas between",
                });
            }
        }
    }
    Ok(flags)
}

fn persistence(options: &Options, service: VirtualService) -> Result<Option<Persistence>> {
    if !options.has(Opt::Persistent) {
        return match options.has(Opt::Netmask) {
            true => Err(CommandError::Needs { command: Opt::Netmask.name(), option: Opt::Persistent.name() }),
            false => Ok(None),
        };
    }
    let timeout_s = match options.value(Opt::Persistent) {
        Some(text) => number(Opt::Persistent, text, 1, "seconds, 1 and more")?,
        None => PERSISTENCE_DEFAULT_S,
    };
    let is_ipv6 = match service {
        VirtualService::Address { address, .. } => address.is_ipv6(),
        VirtualService::Mark { is_ipv6, .. } => is_ipv6,
    };
    let prefix_len = options.value(Opt::Netmask).map(|text| {
        let wrong =
            |allowed| CommandError::Value { option: Opt::Netmask.name(), written: text.to_owned(), allowed };
        match is_ipv6 {
            true => {
                text.parse().ok().filter(|len| (1..=128).contains(len)).ok_or(wrong("a prefix of 1 to 128"))
            }
            false => prefix_len_of(text).ok_or(wrong("a netmask without gaps, such as 255.255.255.0")),
        }
    });
    Ok(Some(Persistence { timeout_s, prefix_len: prefix_len.transpose()? }))
}

/// Of a netmask whose ones stand before its zeros, and that has a one.
fn prefix_len_of(netmask: &str) -> Option<u8> {
    let bits = netmask.parse::<Ipv4Addr>().ok()?.to_bits();
    let ones = bits.leading_ones();
    (ones > 0 && ones + bits.trailing_zeros() >= u32::BITS).then_some(ones as u8)
}

fn server_options(options: &Options) -> Result<ServerOptions> {
    let or = |opt, default| match options.value(opt) {
        Some(text) => number(opt, text, 0, "a number of 0 and more"),
        None => Ok(default),
    };
    let (upper_threshold, lower_threshold) = (or(Opt::UpperThreshold, 0)?, or(Opt::LowerThreshold, 0)?);
    if upper_threshold > 0 && lower_threshold > upper_threshold {
        return Err(CommandError::Value {
            option: Opt::LowerThreshold.name(),
            written: lower_threshold.to_string(),
            allowed: "at most the upper threshold",
        });
    }
    Ok(ServerOptions {
        forwarding: forwarding(options)?,
        weight: or(Opt::Weight, 1)?,
        upper_threshold,
        lower_threshold,
    })
}

fn forwarding(options: &Options) -> Result<Forwarding> {
    let ways = [Opt::Gatewaying, Opt::Ipip, Opt::Masquerading];
    let mut ways = ways.into_iter().filter(|way| options.has(*way));
    let way = ways.next().unwrap_or(Opt::Gatewaying);
    if let Some(other) = ways.next() {
        return Err(CommandError::Illegal { option: other.name(), with: way.name() });
    }
    if way == Opt::Ipip {
        return tunnel(options).map(Forwarding::Tunnel);
    }
    let of_tunnels = [Opt::TunType, Opt::TunPort, Opt::TunNocsum, Opt::TunCsum, Opt::TunRemcsum];
    if let Some(option) = of_tunnels.into_iter().find(|opt| options.has(*opt)) {
        return Err(CommandError::Illegal { option: option.name(), with: way.name() });
    }
    Ok(if way == Opt::Masquerading { Forwarding::Masquerading } else { Forwarding::Gatewaying })
}

fn tunnel(options: &Options) -> Result<Tunnel> {
    let kind = options.value(Opt::TunType).unwrap_or("ipip");
    let l4_port = options.value(Opt::TunPort).map(|text| {
        let l4_port = text.parse().ok().filter(|l4_port| *l4_port > 0);
        let allowed = "a port of 1 to 65535";
        l4_port.ok_or(CommandError::Value { option: Opt::TunPort.name(), written: text.to_owned(), allowed })
    });
    let l4_port = l4_port.transpose()?;
    let kinds =
        [(Opt::TunNocsum, Checksum::No), (Opt::TunCsum, Checksum::Yes), (Opt::TunRemcsum, Checksum::Remote)];
    let mut said = kinds.into_iter().filter(|(opt, _)| options.has(*opt));
    let checksum = said.next();
    if let (Some((first, _)), Some((second, _))) = (checksum, said.next()) {
        return Err(CommandError::Illegal { option: second.name(), with: first.name() });
    }
    let illegal = |option: Opt, with| Err(CommandError::Illegal { option: option.name(), with });
    let kind_of_checksum = checksum.map(|(_, kind)| kind).unwrap_or_default();
    match (kind, l4_port, checksum) {
        ("ipip", None, None) => Ok(Tunnel::Ipip),
        ("ipip", Some(_), _) => illegal(Opt::TunPort, "tun-type ipip"),
        ("ipip", None, Some((opt, _))) => illegal(opt, "tun-type ipip"),
        ("gre", Some(_), _) => illegal(Opt::TunPort, "tun-type gre"),
        ("gre", None, Some((Opt::TunRemcsum, _))) => illegal(Opt::TunRemcsum, "tun-type gre"),
        ("gre", None, _) => Ok(Tunnel::Gre { checksum: kind_of_checksum }),
        ("gue", Some(l4_port), _) => Ok(Tunnel::Gue { l4_port, checksum: kind_of_checksum }),
        ("gue", None, _) => Err(CommandError::Needs { command: "tun-type gue", option: Opt::TunPort.name() }),
        _ => Err(CommandError::Value {
            option: Opt::TunType.name(),
            written: kind.to_owned(),
            allowed: "ipip, gue, gre",
        }),
    }
}

fn list(options: &Options, service: Option<VirtualService>) -> Result<List> {
    let tables = [
        (Opt::Connection, Listing::Connections),
        (Opt::Stats, Listing::Statistics),
        (Opt::Rate, Listing::Rates),
        (Opt::Thresholds, Listing::Thresholds),
        (Opt::TunInfo, Listing::Tunnels),
        (Opt::Timeout, Listing::Timeouts),
        (Opt::Daemon, Listing::Daemons),
    ];
    let mut tables = tables.into_iter().filter(|(opt, _)| options.has(*opt));
    let what = tables.next();
    if let (Some((first, _)), Some((second, _))) = (what, tables.next()) {
        return Err(CommandError::Illegal { option: second.name(), with: first.name() });
    }
    let persistent_connections = options.has(Opt::PersistentConn);
    Ok(List {
        service,
        what: match what {
            Some((_, what)) => what,
            None if persistent_connections => Listing::PersistentConnections,
            None => Listing::Services,
        },
        numeric: options.has(Opt::Numeric),
        exact: options.has(Opt::Exact),
        unsorted: options.has(Opt::Nosort),
        persistent_connections,
    })
}

fn timeouts(words: &[String]) -> Result<Timeouts> {
    let [tcp, tcp_fin, udp] = words else {
        return Err(CommandError::Needs { command: Opt::Set.name(), option: "tcp tcpfin udp" });
    };
    let seconds = |text: &String| number(Opt::Set, text, 0, "seconds, 0 leaves a timeout as it is");
    Ok(Timeouts { tcp_s: seconds(tcp)?, tcp_fin_s: seconds(tcp_fin)?, udp_s: seconds(udp)? })
}

fn daemon_state(options: &Options, command: Opt) -> Result<DaemonState> {
    match options.rest.first().map(String::as_str) {
        Some("master") => Ok(DaemonState::Master),
        Some("backup") => Ok(DaemonState::Backup),
        Some(written) => Err(CommandError::Value {
            option: command.name(),
            written: written.to_owned(),
            allowed: "master, backup",
        }),
        None => Err(CommandError::Needs { command: command.name(), option: "master|backup" }),
    }
}

/// Decimal digits that fit, which the number parser alone would not hold to: it takes a plus sign.
fn number(opt: Opt, text: &str, min: u32, allowed: &'static str) -> Result<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && *number >= min);
    number.ok_or(CommandError::Value { option: opt.name(), written: text.to_owned(), allowed })
}

#[cfg(test)]
mod tests;
