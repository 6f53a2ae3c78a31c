//! Which connections a walk is for: every condition must hold, and none means all.
//!
//! Judged by the worker, so that a rare connection among ten million costs a queue and control one record. What people type
//! becomes this in control (`control::flows`).

use std::net::IpAddr;

use super::entry::Entry;
use super::key::FlowKey;
use super::tcp_state::TcpState;
use crate::index::ServiceIndex;
use crate::prefix::Prefix;
use crate::rules::Ruleset;

/// A set of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u32);

const _: () = assert!(TcpState::COUNT <= 32);

impl States {
    /// Whether `state` is in it.
    pub const fn has(self, state: TcpState) -> bool {
        self.0 >> (state as u32) & 1 != 0
    }
}

impl FromIterator<TcpState> for States {
    fn from_iter<I: IntoIterator<Item = TcpState>>(states: I) -> Self {
        Self(states.into_iter().fold(0, |bits, state| bits | 1 << (state as u32)))
    }
}

/// An address and perhaps an l4_port; without one, any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The addresses.
    pub addresses: Prefix,
    /// The TCP or UDP port number, host order; of pings the identifier at the client's end and 0 at the VIP's.
    pub l4_port: Option<u16>,
}

impl Endpoint {
    fn holds(self, address: impl Into<IpAddr>, l4_port: u16) -> bool {
        self.addresses.contains(address) && self.l4_port.is_none_or(|wanted| wanted == l4_port)
    }
}

/// What a connection must be like; `None` is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Where it comes from.
    pub client: Option<Endpoint>,
    /// What the client connected to.
    pub vip: Option<Endpoint>,
    /// Its service.
    pub service: Option<ServiceIndex>,
    /// Its backend.
    pub backend: Option<Endpoint>,
    /// Its state.
    pub states: Option<States>,
    /// No packet has passed, either way, for at least this long, in milliseconds.
    pub idle_min_ms: u32,
}

impl Filter {
    /// Whether a connection is meant, given its first entry and how long it has been idle.
    pub fn matches(&self, entry: &Entry, idle_ms: u32, rules: &Ruleset) -> bool {
        let FlowKey { addresses, ports, protocol } = entry.key();
        idle_ms >= self.idle_min_ms
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.states.is_none_or(|states| states.has(entry.state))
            && self.client.is_none_or(|client| client.holds(addresses.source(), ports.source()))
            && self.vip.is_none_or(|vip| vip.holds(addresses.destination(), ports.destination()))
            && self.service.is_none_or(|service| service == entry.service)
            && self.backend.is_none_or(|wanted| {
                rules
                    .backend(entry.backend())
                    .is_some_and(|backend| wanted.holds(backend.address, backend.l4_port))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::Rewrite;
    use crate::index::BackendIndex;
    use crate::rules::Backend;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
    const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

    fn endpoint(address: Ipv4Addr, prefix_len: u8, l4_port: Option<u16>) -> Option<Endpoint> {
        Some(Endpoint { addresses: Prefix::new(address, prefix_len), l4_port })
    }

    #[test]
    fn every_condition_must_hold() {
        let key = FlowKey::new((CLIENT, 40_000), (VIP, 80), 6);
        let state = TcpState::Established;
        let (backend, service) = (BackendIndex(1), ServiceIndex(4));
        let mut entry = Entry::new(&key, Rewrite::Dr, backend);
        (entry.state, entry.service) = (state, service);
        let backend = |address| Backend::new(address, 8080, service);
        let rules = Ruleset { backends: [backend(CLIENT), backend(SERVER)].into(), ..Ruleset::default() };
        let all = Filter::default();
        let holds = [
            Filter { protocol: Some(6), ..all.clone() },
            Filter { client: endpoint(Ipv4Addr::new(10, 1, 0, 0), 16, None), ..all.clone() },
            Filter { client: endpoint(Ipv4Addr::UNSPECIFIED, 0, Some(40_000)), ..all.clone() },
            Filter { vip: endpoint(VIP, 32, Some(80)), ..all.clone() },
            Filter { service: Some(ServiceIndex(4)), ..all.clone() },
            Filter { backend: endpoint(SERVER, 32, Some(8080)), ..all.clone() },
            Filter { states: Some([TcpState::Close, state].into_iter().collect()), ..all.clone() },
            Filter { idle_min_ms: 500, ..all.clone() },
        ];
        let fails = [
            Filter { protocol: Some(17), ..all.clone() },
            Filter { client: endpoint(Ipv4Addr::new(10, 2, 0, 0), 16, None), ..all.clone() },
            Filter { client: endpoint(CLIENT, 32, Some(1)), ..all.clone() },
            Filter { vip: endpoint(VIP, 32, Some(81)), ..all.clone() },
            Filter { service: Some(ServiceIndex(1)), ..all.clone() },
            Filter { backend: endpoint(SERVER, 32, Some(80)), ..all.clone() },
            Filter { states: Some([TcpState::Close].into_iter().collect()), ..all.clone() },
            Filter { idle_min_ms: 501, ..all.clone() },
        ];
        assert!(all.matches(&entry, 500, &rules));
        holds.iter().for_each(|filter| assert!(filter.matches(&entry, 500, &rules), "{filter:?}"));
        fails.iter().for_each(|filter| assert!(!filter.matches(&entry, 500, &rules), "{filter:?}"));
    }
}
