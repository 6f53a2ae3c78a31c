//! Connections as people and programs see them: `crossdock flows`, `flows delete`, and the API behind both.
//!
//! [`query`] says which connections are meant; [`walks`] asks the workers, each of which goes through its own table between
//! bursts (`dataplane::flow::walk` gives the guarantee). Nothing here touches a table.

pub mod query;
pub mod walks;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use dataplane::flow::Rewrite;
use dataplane::flow::tcp_state::TcpState;
use dataplane::flow::walk::Record;
use dataplane::wire::ipv4::{PROTOCOL_ICMP, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use dataplane::wire::ipv6::PROTOCOL_ICMPV6;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use query::Query;

/// A connection as of one instant. One line of JSON each in the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connection<'a> {
    /// The worker that owns it.
    pub worker: u16,
    /// As `protocol_name` says: `tcp`, `icmpv6`.
    #[serde(borrow)]
    pub protocol: Cow<'a, str>,
    /// As [`state_name`] says.
    pub state: Cow<'a, str>,
    /// Where it comes from.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// What the client connected to.
    #[schema(value_type = String)]
    pub vip: SocketAddr,
    /// FullNAT and SNAT: what the other end sees it come from.
    #[schema(value_type = Option<String>)]
    pub local: Option<SocketAddr>,
    /// Where it goes; `null` where the rules no longer know.
    #[schema(value_type = Option<String>)]
    pub backend: Option<SocketAddr>,
    /// The name of its service; `null` for one that has left the rules.
    pub service: Option<Cow<'a, str>>,
    /// `dr`, `tunnel`, `nat`, `fullnat`, `snat`, or `local` where the backend is this director.
    pub mode: Cow<'a, str>,
    /// Time since its last packet, either way, in milliseconds.
    pub idle_ms: u32,
    /// Time after which it is forgotten if no packet comes, in milliseconds.
    pub expires_ms: u32,
}

impl<'a> Connection<'a> {
    /// What `worker` told, with the name of the service.
    pub fn new(worker: u16, record: &Record, service: Option<&'a str>) -> Self {
        let key = record.key;
        let mode = match record.rewrite {
            Rewrite::Dr => "dr",
            Rewrite::Tunnel => "tunnel",
            Rewrite::FullnatToBackend | Rewrite::FullnatToClient => match record.new_key {
                Some(new) if new.source() == key.source() => "nat",
                Some(new) if new.destination() == key.destination() => "snat",
                _ => "fullnat",
            },
            Rewrite::TranslateToBackend | Rewrite::TranslateToClient => "fullnat",
            Rewrite::Local => "local",
            Rewrite::Free => "",
        };
        Self {
            worker,
            protocol: protocol_name(key.protocol),
            state: state_name(record.state).into(),
            client: endpoint(key.source(), key.ports.source()),
            vip: endpoint(key.destination(), key.ports.destination()),
            local: record
                .new_key
                .filter(|new| new.source() != key.source())
                .map(|new| endpoint(new.source(), new.ports.source())),
            backend: record.backend.map(|backend| endpoint(backend.address, backend.l4_port)),
            service: service.map(Cow::Borrowed),
            mode: mode.into(),
            idle_ms: record.idle_ms,
            expires_ms: record.timeout_ms.saturating_sub(record.idle_ms),
        }
    }
}

fn endpoint(address: impl Into<IpAddr>, l4_port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), l4_port)
}

/// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, else the number.
pub(crate) fn protocol_name(protocol: u8) -> Cow<'static, str> {
    match protocol {
        PROTOCOL_TCP => "tcp".into(),
        PROTOCOL_UDP => "udp".into(),
        PROTOCOL_SCTP => "sctp".into(),
        PROTOCOL_ICMP => "icmp".into(),
        PROTOCOL_ICMPV6 => "icmpv6".into(),
        other => other.to_string().into(),
    }
}

/// The name of a state: those of IPVS, in small letters.
pub const fn state_name(state: TcpState) -> &'static str {
    match state {
        TcpState::None => "none",
        TcpState::SynRecv => "syn_recv",
        TcpState::SynSent => "syn_sent",
        TcpState::Established => "established",
        TcpState::FinWait => "fin_wait",
        TcpState::CloseWait => "close_wait",
        TcpState::TimeWait => "time_wait",
        TcpState::Close => "close",
        TcpState::Udp => "udp",
        TcpState::SctpInit => "sctp_init",
        TcpState::SctpCookieReplied => "sctp_cookie_replied",
        TcpState::SctpCookieEchoed => "sctp_cookie_echoed",
        TcpState::SctpEstablished => "sctp_established",
        TcpState::SctpShutdownSent => "sctp_shutdown_sent",
        TcpState::SctpShutdownAckSent => "sctp_shutdown_ack_sent",
        TcpState::SctpClosed => "sctp_closed",
        TcpState::Icmp => "icmp",
    }
}

/// The heading of the table whose rows [`Connection`] writes; the columns are those of `ipvsadm -Lnc`, and two more.
pub const HEADING: &str = "PRO EXPIRE STATE       SOURCE                VIRTUAL               DESTINATION           WORKER SERVICE\n";

impl fmt::Display for Connection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, protocol, state, client, vip, backend, service, expires_ms, .. } = self;
        // As `ipvsadm` does: minutes and seconds, and capitals.
        let (minutes, seconds) = (expires_ms / 60_000, expires_ms / 1_000 % 60);
        let expire = format!("{minutes:02}:{seconds:02}");
        let backend = backend.map_or_else(|| "-".to_owned(), |backend| backend.to_string());
        // The protocol stands beside the state.
        let state = state.strip_prefix("sctp_").unwrap_or(state);
        let (protocol, state) = (protocol.to_uppercase(), state.to_uppercase());
        // An address pads as a whole only once it is text.
        let (client, vip) = (client.to_string(), vip.to_string());
        let service = service.as_deref().unwrap_or("-");
        write!(
            f,
            "{protocol:<3} {expire:<6} {state:<11} {client:<21} {vip:<21} {backend:<21} {worker:>6} {service}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dataplane::flow::FlowKey;
    use dataplane::index::ServiceIndex;
    use dataplane::rules::Backend;

    use super::*;

    fn record() -> Record {
        let (client, vip) = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 100));
        let (local, server) = (Ipv4Addr::new(192, 0, 2, 64), Ipv4Addr::new(192, 0, 2, 11));
        Record {
            key: FlowKey::new((client, 40_000), (vip, 80), 6),
            rewrite: Rewrite::FullnatToBackend,
            state: TcpState::Established,
            service: ServiceIndex(0),
            new_key: Some(FlowKey::new((local, 1_025), (server, 8_080), 6)),
            backend: Some(Backend::new(server, 8_080, ServiceIndex(0))),
            idle_ms: 1_500,
            timeout_ms: 900_000,
        }
    }

    #[test]
    fn json_says_everything_and_is_read_again() {
        let record = record();
        let connection = Connection::new(1, &record, Some("web"));
        let json = serde_json::to_string(&connection).unwrap();
        assert_eq!(
            json,
            "{\"worker\":1,\"protocol\":\"tcp\",\"state\":\"established\",\"client\":\"198.51.100.7:40000\",\
             \"vip\":\"192.0.2.100:80\",\"local\":\"192.0.2.64:1025\",\"backend\":\"192.0.2.11:8080\",\
             \"service\":\"web\",\"mode\":\"fullnat\",\"idle_ms\":1500,\"expires_ms\":898500}"
        );
        assert_eq!(serde_json::from_str::<Connection<'_>>(&json).unwrap(), connection);
        let one_way =
            Record { rewrite: Rewrite::Dr, new_key: None, backend: None, idle_ms: 900_001, ..record };
        let one_way = Connection::new(0, &one_way, None);
        assert_eq!((one_way.local, one_way.backend, one_way.expires_ms), (None, None, 0));
    }

    #[test]
    fn the_table_is_ipvsadms() {
        let record = record();
        let connection = Connection::new(1, &record, Some("web")).to_string();
        assert_eq!(
            format!("{HEADING}{connection}"),
            "PRO EXPIRE STATE       SOURCE                VIRTUAL               DESTINATION           WORKER SERVICE\n\
             TCP 14:58  ESTABLISHED 198.51.100.7:40000    192.0.2.100:80        192.0.2.11:8080            1 web"
        );
    }
}
