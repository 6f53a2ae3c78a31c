//! What an interface is needed for: somebody's SSH session, the default route, addresses. A NIC that is taken from under
//! those takes the machine away from whoever administers it.
//!
//! Sessions are found by the sockets that SSH servers hold, not by `SSH_CONNECTION` alone, which sudo and tmux lose. Read first:
//! proc_net(5) and Documentation/networking/proc_net_tcp.rst on the files of /proc/net.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::machine::Machine;

/// Programs whose connections are somebody's way in (`comm`, at most 15 bytes; OpenSSH has `sshd-session` since 9.8).
const SSH_SERVERS: [&str; 3] = ["sshd", "sshd-session", "dropbear"];
/// `TCP_ESTABLISHED` in /proc/net/tcp (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
/// `RTF_REJECT` (linux/route.h): a route that refuses.
const ROUTE_REJECTS: u32 = 0x0200;

/// What an interface, or one that stands on it, is used for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// An SSH session goes by this address.
    Ssh(IpAddr),
    /// A default route leaves by it.
    DefaultRoute,
    /// It has this address.
    Address(IpAddr),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh(address) => write!(f, "carries an SSH session (to {address})"),
            Self::DefaultRoute => f.write_str("carries the default route"),
            Self::Address(address) => write!(f, "has the address {address}"),
        }
    }
}

/// Uses by interface. Those of a VLAN, bridge or bond count for the interfaces below it as well.
///
/// `addresses` are the interfaces' own; `ssh_connection` is the environment's `SSH_CONNECTION`, if there is one.
pub fn uses(
    machine: &Machine,
    addresses: &[(String, IpAddr)],
    ssh_connection: Option<&str>,
) -> BTreeMap<String, BTreeSet<Use>> {
    let sessions: BTreeSet<IpAddr> = ssh_addresses(machine)
        .into_iter()
        // "CLIENT PORT SERVER PORT" (ssh(1), ENVIRONMENT).
        .chain(ssh_connection.and_then(|text| text.split(' ').nth(2)?.parse().ok()))
        .collect();
    let mut uses: BTreeMap<String, BTreeSet<Use>> = BTreeMap::new();
    for (interface, address) in addresses {
        if address.is_loopback() {
            continue;
        }
        let of_interface = uses.entry(interface.clone()).or_default();
        if sessions.contains(address) {
            of_interface.insert(Use::Ssh(*address));
        }
        // Every interface that is up has one of these by itself.
        if !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            of_interface.insert(Use::Address(*address));
        }
    }
    for interface in default_route_interfaces(machine) {
        uses.entry(interface).or_default().insert(Use::DefaultRoute);
    }
    with_those_below(machine, uses)
}

fn with_those_below(
    machine: &Machine,
    uses: BTreeMap<String, BTreeSet<Use>>,
) -> BTreeMap<String, BTreeSet<Use>> {
    let mut all = BTreeMap::<String, BTreeSet<Use>>::new();
    for (interface, of_interface) in uses {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![interface];
        while let Some(next) = waiting.pop() {
            if !seen.insert(next.clone()) {
                continue;
            }
            let files = machine.list(&format!("/sys/class/net/{next}")).into_iter();
            waiting.extend(files.filter_map(|file| Some(file.strip_prefix("lower_")?.to_owned())));
            all.entry(next).or_default().extend(of_interface.iter().cloned());
        }
    }
    all
}

/// The interfaces by which a default route of either family leaves.
fn default_route_interfaces(machine: &Machine) -> BTreeSet<String> {
    let v4 = machine.read("/proc/net/route").unwrap_or_default();
    let v4 = v4.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        (is_default && flags & ROUTE_REJECTS == 0).then(|| fields[0].to_owned())
    });
    let v6 = machine.read("/proc/net/ipv6_route").unwrap_or_default();
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        let is_default = fields.first()?.bytes().all(|digit| digit == b'0') && fields.get(1) == Some(&"00");
        (is_default && flags & ROUTE_REJECTS == 0).then(|| fields.get(9).map(|name| (*name).to_owned()))?
    });
    v4.chain(v6).filter(|interface| interface != "lo").collect()
}

/// Addresses of this machine at which an SSH server has a connection now.
fn ssh_addresses(machine: &Machine) -> Vec<IpAddr> {
    let processes = machine.list("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let is_server = |pid: &String| {
        let name = machine.read(&format!("/proc/{pid}/comm"));
        name.is_some_and(|name| SSH_SERVERS.contains(&name.as_str()))
    };
    let sockets: BTreeSet<String> = processes
        .filter(is_server)
        .flat_map(|pid| {
            let files = machine.list(&format!("/proc/{pid}/fd")).into_iter();
            files
                .filter_map(move |file| machine.link_name(&format!("/proc/{pid}/fd/{file}")))
                .collect::<Vec<_>>()
        })
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| machine.read(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let held = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_held = fields.get(3) == Some(&ESTABLISHED) && sockets.contains(*fields.get(9)?);
        is_held.then(|| address(fields.get(1)?.split(':').next()?))?
    });
    held.collect()
}

/// An address as /proc/net writes it: words of 32 bits in the processor's byte order, in hexadecimal. An IPv4 address in an
/// IPv6 socket is an IPv4 address.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::made_up;

    const SERVER: (&str, &str) = (
        "/proc/net/tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
         0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100\n\
         1: 050200C0:0016 0A0200C0:C350 01 00000000:00000000 00:00000000 00000000     0        0 101\n\
         2: 060200C0:1F90 0A0200C0:C351 01 00000000:00000000 00:00000000 00000000     0        0 102\n",
    );

    fn of(uses: &BTreeMap<String, BTreeSet<Use>>, interface: &str) -> Vec<Use> {
        uses.get(interface).into_iter().flatten().cloned().collect()
    }

    /// Documentation/networking/proc_net_tcp.rst: 192.0.2.5 is 050200C0 on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_interface_of_an_ssh_session_is_known_without_its_environment() {
        let (_directory, machine) = made_up(&[
            SERVER,
            ("/proc/7/comm", "sshd-session\n"),
            ("/proc/7/fd/4", "-> socket:[101]"),
            ("/proc/8/comm", "nginx\n"),
            ("/proc/8/fd/4", "-> socket:[102]"),
        ]);
        let here: IpAddr = "192.0.2.5".parse().unwrap();
        let there: IpAddr = "192.0.2.6".parse().unwrap();
        let addresses = [("eth1".to_owned(), here), ("eth2".to_owned(), there)];
        let found = uses(&machine, &addresses, None);
        assert_eq!(of(&found, "eth1"), [Use::Ssh(here), Use::Address(here)]);
        assert_eq!(of(&found, "eth2"), [Use::Address(there)]);
        let by_environment = uses(&machine, &addresses, Some("192.0.2.9 50000 192.0.2.6 22"));
        assert!(of(&by_environment, "eth2").contains(&Use::Ssh(there)));
    }

    #[test]
    fn an_address_of_tcp6_may_be_an_ipv4_one() {
        if cfg!(target_endian = "little") {
            assert_eq!(address("0000000000000000FFFF0000050200C0"), "192.0.2.5".parse().ok());
            assert_eq!(address("B80D0120000000000000000001000000"), "2001:db8::1".parse().ok());
        }
        assert_eq!(address("0102"), None);
        assert_eq!(address("0102030é"), None);
    }

    #[test]
    fn what_a_bond_carries_its_members_carry() {
        let (_directory, machine) = made_up(&[
            (
                "/proc/net/route",
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                 bond0.7\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                 eth9\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
            ),
            (
                "/proc/net/ipv6_route",
                "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n\
                 00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth8\n",
            ),
            ("/sys/class/net/bond0.7/lower_bond0", ""),
            ("/sys/class/net/bond0/lower_eth1", ""),
            ("/sys/class/net/bond0/lower_eth2", ""),
        ]);
        let found = uses(&machine, &[], None);
        let interfaces: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(interfaces, ["bond0", "bond0.7", "eth1", "eth2", "eth8"]);
        assert_eq!(of(&found, "eth2"), [Use::DefaultRoute]);
    }
}
