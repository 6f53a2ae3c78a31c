//! The words of the rules: what a value is called in the file, and in what is said about a change of it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use dataplane::flow::tcp_state::TcpState;
use dataplane::wire::client_option::{TOA_DEFAULT, UOA_DEFAULT};
use dataplane::wire::proxy_protocol::Version;

use super::checked::{
    Backend, BackendState, Carrier, ClientAddress, Endpoint, Fate, Flows, Mss, NoBackend, NoFlow, OnTimeout,
    Persistence, Policy, Reuse, Service, Source, Tunnel,
};
use super::values::duration_text;

/// Values and what they are called.
pub(super) type Words<T, const COUNT: usize> = [(&'static str, T); COUNT];

/// `flows`
pub(super) const FLOWS: Words<Flows, 2> = [("keep", Flows::Kept), ("none", Flows::None)];

/// `client_address`; the numbers of the options are the defaults.
pub(super) const CLIENT_ADDRESS: Words<ClientAddress, 4> = [
    ("proxy-v1", ClientAddress::Proxy(Version::V1)),
    ("proxy-v2", ClientAddress::Proxy(Version::V2)),
    ("toa", ClientAddress::Toa(TOA_DEFAULT)),
    ("uoa", ClientAddress::Uoa(UOA_DEFAULT)),
];

/// `no_backend`
pub(super) const NO_BACKEND: Words<NoBackend, 3> =
    [("unreachable", NoBackend::Unreachable), ("reset", NoBackend::Reset), ("drop", NoBackend::Drop)];

/// `no_flow`
pub(super) const NO_FLOW: Words<NoFlow, 4> = [
    ("kernel", NoFlow::Kernel),
    ("reset", NoFlow::Reset),
    ("drop", NoFlow::Drop),
    ("schedule", NoFlow::Schedule),
];

/// What a value of `no_flow` is called.
pub fn no_flow_word(no_flow: NoFlow) -> &'static str {
    word(&NO_FLOW, &no_flow)
}

/// `reuse`
pub(super) const REUSE: Words<Reuse, 3> =
    [("when-over", Reuse::WhenOver), ("when-closed", Reuse::WhenClosed), ("never", Reuse::Never)];

/// `on_timeout`
pub(super) const ON_TIMEOUT: Words<OnTimeout, 2> =
    [("forget", OnTimeout::Forget), ("reset", OnTimeout::Reset)];

/// `on_remove`
pub(super) const ON_REMOVE: Words<Fate, 3> =
    [("finish", Fate::Finish), ("reset", Fate::Reset), ("move", Fate::Move)];

/// `ttl`: whether it is kept.
pub(super) const TTL: Words<bool, 2> = [("lower", false), ("keep", true)];

/// `on_drain` of `[service.persistence]`: whether a client leaves a drained backend.
pub(super) const ON_DRAIN: Words<bool, 2> = [("keep", false), ("move", true)];

/// `state` of `[[service.backend]]`
pub(super) const STATE: Words<BackendState, 3> =
    [("up", BackendState::Up), ("drain", BackendState::Drain), ("down", BackendState::Down)];

/// Keys of `[service.timeouts]`.
pub(super) const TIMEOUTS: Words<TcpState, 16> = [
    ("established", TcpState::Established),
    ("syn_recv", TcpState::SynRecv),
    ("syn_sent", TcpState::SynSent),
    ("fin_wait", TcpState::FinWait),
    ("time_wait", TcpState::TimeWait),
    ("close", TcpState::Close),
    ("close_wait", TcpState::CloseWait),
    ("udp", TcpState::Udp),
    ("sctp_init", TcpState::SctpInit),
    ("sctp_cookie_replied", TcpState::SctpCookieReplied),
    ("sctp_cookie_echoed", TcpState::SctpCookieEchoed),
    ("sctp_established", TcpState::SctpEstablished),
    ("sctp_shutdown_sent", TcpState::SctpShutdownSent),
    ("sctp_shutdown_ack_sent", TcpState::SctpShutdownAckSent),
    ("sctp_closed", TcpState::SctpClosed),
    ("icmp", TcpState::Icmp),
];

/// What `value` is called.
pub(super) fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("?", |(word, _)| word)
}

/// Settings by name, each as the rules write it.
pub(super) type Settings = Vec<(Cow<'static, str>, String)>;

/// What the rules say about a service, its backends aside.
pub(super) fn settings(service: &Service) -> Settings {
    let Policy { timeouts, persistence, limits, sorry: _, flows, .. } = &service.policy;
    let Policy { no_backend, no_flow, reuse, on_timeout, on_remove, checks_rst, keeps_ttl, .. } =
        &service.policy;
    let flows_word = if *flows == Flows::OnePacket { "one packet" } else { word(&FLOWS, flows) };
    let Policy { client_address, mss, fragments, .. } = &service.policy;
    let settings = [
        ("name", service.name.clone()),
        ("listen", service.listens_text()),
        ("mode", service.mode.to_string()),
        ("ttl", word(&TTL, keeps_ttl).to_owned()),
        ("tunnel", or_none(service.tunnel.map(tunnel_text))),
        ("scheduler", service.scheduler.to_string()),
        ("announce", service.announce.to_string()),
        ("client_address", client_address_text(*client_address)),
        ("mss", mss_text(*mss)),
        ("fragment", fragments.to_string()),
        ("flows", flows_word.to_owned()),
        ("no_backend", word(&NO_BACKEND, no_backend).to_owned()),
        ("no_flow", word(&NO_FLOW, no_flow).to_owned()),
        ("reuse", word(&REUSE, reuse).to_owned()),
        ("on_timeout", word(&ON_TIMEOUT, on_timeout).to_owned()),
        ("on_remove", word(&ON_REMOVE, on_remove).to_owned()),
        ("check_rst", checks_rst.to_string()),
        ("slow_start", or_none(service.slow_start.map(duration_text))),
        ("drain_timeout", or_none(service.drain_timeout.map(duration_text))),
        ("max_connections", or_none(limits.connections)),
        ("max_half_open", or_none(limits.half_open)),
        ("max_rate", or_none(limits.rate.map(|rate| format!("{rate}/s")))),
        ("persistence", or_none(persistence.map(persistence_text))),
        ("health", or_none(service.health.as_deref())),
        ("sorry", or_none(service.sorry)),
        ("server_ids.datagrams", or_none(service.routes.datagrams.as_ref())),
        ("server_ids.tcp_option", or_none(service.routes.tcp_option)),
        ("server_id", or_none(server_ids_text(&service.routes.server_ids))),
        ("prefixes", or_none(service.routes.prefixes.as_deref())),
    ];
    let timeout = |state| duration_text(Duration::from_millis(timeouts.of(state).into()));
    let timeouts = TIMEOUTS.map(|(key, state)| (Cow::Owned(format!("timeouts.{key}")), timeout(state)));
    settings.map(|(key, value)| (Cow::Borrowed(key), value)).into_iter().chain(timeouts).collect()
}

/// What the rules say about a backend, its endpoint aside.
pub(super) fn backend_settings(backend: &Backend) -> Settings {
    let settings = [
        ("weight", backend.weight.to_string()),
        ("max_connections", or_none(backend.thresholds.map(|thresholds| thresholds.upper))),
        ("resume_below", or_none(backend.thresholds.map(|thresholds| thresholds.lower))),
        ("state", backend.state.to_string()),
        ("checked", backend.check_place.to_string()),
    ];
    settings.map(|(key, value)| (Cow::Borrowed(key), value)).into()
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// What the rules say of a tunnel, in the order of its keys.
fn tunnel_text(tunnel: Tunnel) -> String {
    let carrier = match tunnel.carrier {
        Carrier::Ipip => "ipip".to_owned(),
        Carrier::Gre { key: None } => "gre".to_owned(),
        Carrier::Gre { key: Some(key) } => format!("gre key {key}"),
        Carrier::Gue { has_header, l4_port } => {
            format!("gue variant {} port {l4_port}", u8::from(!has_header))
        }
    };
    let source = match tunnel.source {
        Source::PerFlow => "per flow".to_owned(),
        Source::Fixed { v4, v6 } => {
            let given: Vec<_> = v4
                .map(IpAddr::V4)
                .into_iter()
                .chain(v6.map(IpAddr::V6))
                .map(|address| address.to_string())
                .collect();
            if given.is_empty() { "the port's".to_owned() } else { given.join(" and ") }
        }
    };
    let copied = |value: Option<u8>| value.map_or_else(|| "copied".to_owned(), |value| value.to_string());
    let dont_fragment = if tunnel.dont_fragment { "" } else { ", fragmented" };
    let checksum = if tunnel.udp_checksum { ", UDP checksum" } else { "" };
    let second = if tunnel.second_chance { ", second chance" } else { "" };
    let (dscp, ttl) = (copied(tunnel.dscp), copied(tunnel.ttl));
    format!("{carrier} from {source}, dscp {dscp}, ttl {ttl}{dont_fragment}{checksum}{second}")
}

fn client_address_text(client_address: ClientAddress) -> String {
    match client_address {
        ClientAddress::Hidden => "none".to_owned(),
        ClientAddress::Toa(kind) => format!("toa, option {kind}"),
        ClientAddress::Uoa(kind) => format!("uoa, option {kind}"),
        proxy => word(&CLIENT_ADDRESS, &proxy).to_owned(),
    }
}

fn mss_text(mss: Mss) -> String {
    match mss {
        Mss::Kept => "none".to_owned(),
        Mss::Clamped => "clamp".to_owned(),
        Mss::AtMost(bytes) => bytes.to_string(),
    }
}

fn persistence_text(persistence: Persistence) -> String {
    let timeout = duration_text(Duration::from_millis(persistence.timeout_ms.into()));
    let on_drain = word(&ON_DRAIN, &persistence.leaves_drained);
    let Persistence { prefix_len, prefix_len6, .. } = persistence;
    format!("{timeout} of a /{prefix_len} (IPv6: /{prefix_len6}), drained: {on_drain}")
}

fn server_ids_text(ids: &[(u128, Endpoint)]) -> Option<String> {
    let texts: Vec<_> = ids.iter().map(|(id, endpoint)| format!("{id:#x} is {endpoint}")).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_no_file_is_what_ipvs_does() {
        assert_eq!(word(&FLOWS, &Flows::default()), "keep");
        assert_eq!(word(&NO_BACKEND, &NoBackend::default()), "unreachable");
        assert_eq!(word(&NO_FLOW, &NoFlow::default()), "kernel");
        assert_eq!(word(&REUSE, &Reuse::default()), "when-over");
        assert_eq!(word(&ON_TIMEOUT, &OnTimeout::default()), "forget");
        assert_eq!(word(&ON_REMOVE, &Fate::default()), "finish");
    }
}
