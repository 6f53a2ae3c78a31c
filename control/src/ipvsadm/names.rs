//! Names of hosts and ports, which ipvsadm takes wherever it takes numbers: `www.example.org:http`.

use std::collections::HashMap;
use std::fs;
use std::iter;
use std::net::{IpAddr, ToSocketAddrs};

use crate::rules::Protocol;

/// Where the distribution keeps names of ports (Debian: package netbase); services(5).
const SERVICES_FILE: &str = "/etc/services";

/// What names are looked up in.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// By name and protocol, which is written `tcp`.
    l4_ports: HashMap<(String, String), u16>,
    asks_resolver: bool,
}

impl Names {
    /// This machine's: /etc/services, and for hosts its resolver, which may ask DNS.
    pub fn of_this_machine() -> Self {
        let services = fs::read(SERVICES_FILE).unwrap_or_default();
        Self { asks_resolver: true, ..Self::of_services(&String::from_utf8_lossy(&services)) }
    }

    /// Names of ports from the text of a services(5) file; hosts are addresses only.
    pub fn of_services(text: &str) -> Self {
        let mut l4_ports = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(name), Some(place)) = (words.next(), words.next()) else { continue };
            let Some((l4_port, protocol)) = place.split_once('/') else { continue };
            let Ok(l4_port) = l4_port.parse::<u16>() else { continue };
            for name in iter::once(name).chain(words) {
                l4_ports.entry((name.to_owned(), protocol.to_owned())).or_insert(l4_port);
            }
        }
        Self { l4_ports, asks_resolver: false }
    }

    /// The port called `name`. SCTP, for which services files have hardly any names, has TCP's too.
    pub(crate) fn l4_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let of = |protocol: &str| self.l4_ports.get(&(name.to_owned(), protocol.to_owned())).copied();
        of(&protocol.to_string()).or_else(|| (protocol == Protocol::Sctp).then(|| of("tcp"))?)
    }

    /// The address of the host called `name`: the first that the resolver tells, as for ipvsadm.
    pub(super) fn host(&self, name: &str) -> Option<IpAddr> {
        // What is no name is not asked for: such text comes from shells and damaged files.
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !self.asks_resolver || !is_name {
            return None;
        }
        Some((name, 0).to_socket_addrs().ok()?.next()?.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_the_names_of_the_services_file() {
        let names =
            Names::of_services("# a comment\nhttp 80/tcp www # WorldWideWeb\nsip\t5060/udp\nbad line\n");
        assert_eq!(names.l4_port("http", Protocol::Tcp), Some(80));
        assert_eq!(names.l4_port("www", Protocol::Tcp), Some(80));
        assert_eq!(names.l4_port("http", Protocol::Sctp), Some(80));
        assert_eq!(names.l4_port("http", Protocol::Udp), None);
        assert_eq!(names.l4_port("sip", Protocol::Udp), Some(5060));
    }
}
