//! Which connections are meant: the same conditions as options of the command line and as the query string of the API.
//!
//! What was typed is checked in two steps: each value by itself when it is read, names and numbers that only a running
//! director knows when [`Query::resolve`] makes the workers' filter of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use dataplane::flow::filter::{self, Filter};
use dataplane::flow::tcp_state::TcpState;
use dataplane::index::ServiceIndex;
use dataplane::prefix::Prefix;
use dataplane::wire::ipv4::{PROTOCOL_ICMP, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use dataplane::wire::ipv6::PROTOCOL_ICMPV6;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::state_name;
use crate::rules::nearest;

/// The conditions; every one that is given must hold.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    /// Only connections of this service, by its name in the rules
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only `tcp`, `udp`, `sctp`, `icmp` or `icmpv6`
    #[arg(short, long, value_name = "PROTOCOL")]
    #[serde(skip_serializing_if = "Option::is_none", with = "as_text")]
    #[param(value_type = Option<String>)]
    pub protocol: Option<Protocol>,
    /// Only clients at this address or network, and perhaps port: 10.1.0.0/16, 10.1.2.3:40000, `[2001:db8::1]:40000`
    #[arg(short = 's', long, value_name = "ADDRESS[/LEN][:PORT]")]
    #[serde(skip_serializing_if = "Option::is_none", with = "as_text")]
    #[param(value_type = Option<String>)]
    pub client: Option<Endpoint>,
    /// Only what was sent to this VIP, and perhaps port
    #[arg(short = 'd', long, value_name = "ADDRESS[/LEN][:PORT]")]
    #[serde(skip_serializing_if = "Option::is_none", with = "as_text")]
    #[param(value_type = Option<String>)]
    pub vip: Option<Endpoint>,
    /// Only connections to this backend, at any port or at one: 10.0.0.11, 10.0.0.11:8080
    #[arg(short, long, value_name = "ADDRESS[/LEN][:PORT]")]
    #[serde(skip_serializing_if = "Option::is_none", with = "as_text")]
    #[param(value_type = Option<String>)]
    pub backend: Option<Endpoint>,
    /// Only these states, with commas between: established,time_wait
    #[arg(long, value_name = "STATE,...")]
    #[serde(skip_serializing_if = "Option::is_none", with = "as_text")]
    #[param(value_type = Option<String>)]
    pub state: Option<States>,
    /// Only connections without a packet, either way, for at least this long: 30s
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none", with = "as_text")]
    #[param(value_type = Option<String>)]
    pub idle: Option<IdleTime>,
    /// Only those of this worker, counted from 0
    #[arg(long, value_name = "NUMBER")]
    #[serde(skip_serializing_if = "Option::is_none", with = "as_text")]
    #[param(value_type = Option<u16>)]
    pub worker: Option<u16>,
}

/// Why a query cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// No service is called so; with the name that was perhaps meant.
    NoService(String, Option<String>),
    /// There are fewer workers.
    NoWorker {
        /// The one that was asked for.
        worker: u16,
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoService(name, None) => write!(f, "the rules in force have no service {name:?}"),
            Self::NoService(name, Some(near)) => {
                write!(f, "the rules in force have no service {name:?}; is {near:?} meant?")
            }
            Self::NoWorker { worker, count } => {
                write!(f, "there is no worker {worker}: they are numbered 0 to {}", count.saturating_sub(1))
            }
        }
    }
}

impl std::error::Error for QueryError {}

impl Query {
    /// Whether there is no condition at all, so that every connection is meant.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As the query string of the API, without a question mark.
    pub fn to_query_string(&self) -> String {
        // Options of plain text: nothing that could fail.
        serde_urlencoded::to_string(self).unwrap_or_default()
    }

    /// What the workers are to look for. `services` are the names of the services in force.
    ///
    /// # Errors
    /// When the query names what is not there.
    pub fn resolve<'a>(
        &self,
        services: impl Iterator<Item = (ServiceIndex, &'a str)> + Clone,
        worker_count: usize,
    ) -> Result<Filter, QueryError> {
        if let Some(worker) = self.worker.filter(|worker| usize::from(*worker) >= worker_count) {
            return Err(QueryError::NoWorker { worker, count: worker_count });
        }
        let index_of = |name: &String| {
            let found = services.clone().find(|(_, there)| there == name);
            found.map(|(index, _)| index).ok_or_else(|| {
                let near = nearest(name, services.clone().map(|(_, there)| there));
                QueryError::NoService(name.clone(), near.map(str::to_owned))
            })
        };
        Ok(Filter {
            protocol: self.protocol.map(|protocol| protocol.0),
            client: self.client.map(Endpoint::wanted),
            vip: self.vip.map(Endpoint::wanted),
            service: self.service.as_ref().map(index_of).transpose()?,
            backend: self.backend.map(Endpoint::wanted),
            states: self.state.as_ref().map(|states| states.0.iter().copied().collect()),
            idle_min_ms: self
                .idle
                .map_or(0, |IdleTime(time)| time.as_millis().try_into().unwrap_or(u32::MAX)),
        })
    }
}

/// An IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(u8);

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self(PROTOCOL_TCP)),
            "udp" => Ok(Self(PROTOCOL_UDP)),
            "sctp" => Ok(Self(PROTOCOL_SCTP)),
            "icmp" => Ok(Self(PROTOCOL_ICMP)),
            "icmpv6" => Ok(Self(PROTOCOL_ICMPV6)),
            _ => Err(format!("{text:?} is not a protocol; allowed: tcp, udp, sctp, icmp, icmpv6")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::protocol_name(self.0))
    }
}

/// An address or a network, and perhaps an l4_port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addresses: Prefix,
    l4_port: Option<u16>,
}

impl Endpoint {
    fn wanted(self) -> filter::Endpoint {
        let Self { addresses, l4_port } = self;
        filter::Endpoint { addresses, l4_port }
    }
}

/// `10.1.0.0/16:80` in two; of IPv6, whose addresses have colons of their own, only what stands in brackets can have a port:
/// `[2001:db8::/32]:80`.
fn split_l4_port(text: &str) -> (&str, Option<&str>) {
    if let Some(in_brackets) = text.strip_prefix('[')
        && let Some((network, behind)) = in_brackets.split_once(']')
        && network.contains(':')
    {
        return match behind.strip_prefix(':') {
            None if behind.is_empty() => (network, None),
            None => (text, None),
            Some(l4_port) => (network, Some(l4_port)),
        };
    }
    match text.split_once(':') {
        Some((network, l4_port)) if !l4_port.contains(':') => (network, Some(l4_port)),
        _ => (text, None),
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = "an address, perhaps with a prefix length, perhaps with a port: 10.1.2.3, 10.1.0.0/16, \
                    10.1.2.3:8080, 0.0.0.0/0:8080, 2001:db8::/32, [2001:db8::1]:8080";
        let wrong = |what: &str| format!("{what}; allowed: {help}");
        let (network, l4_port) = split_l4_port(text);
        let l4_port = l4_port.map(|port| port.parse().map_err(|_| wrong(&format!("{port:?} is not a port"))));
        let (address, prefix_len) = match network.split_once('/') {
            None => (network, None),
            Some((address, prefix_len)) => (address, Some(prefix_len)),
        };
        let address: IpAddr =
            address.parse().map_err(|_| wrong(&format!("{address:?} is not an address")))?;
        let whole = Prefix::of(address);
        let addresses = match prefix_len.map(str::parse) {
            None => whole,
            Some(Ok(len)) if len <= whole.prefix_len() => Prefix::new(address, len),
            Some(_) => return Err(wrong(&format!("{network:?} is not a network"))),
        };
        Ok(Self { addresses, l4_port: l4_port.transpose()? })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.addresses.network(), self.l4_port) {
            (_, None) => self.addresses.fmt(f),
            (IpAddr::V4(_), Some(l4_port)) => write!(f, "{}:{l4_port}", self.addresses),
            (IpAddr::V6(_), Some(l4_port)) => write!(f, "[{}]:{l4_port}", self.addresses),
        }
    }
}

/// Some states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States(Vec<TcpState>);

impl FromStr for States {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let state = |name: &str| {
            let found = TcpState::ALL.into_iter().find(|state| state_name(*state).eq_ignore_ascii_case(name));
            found.ok_or_else(|| {
                let allowed = TcpState::ALL.map(state_name).join(", ");
                format!("{name:?} is not a state; allowed: {allowed}")
            })
        };
        text.split(',').map(state).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|state| state_name(*state)).collect();
        f.write_str(&names.join(","))
    }
}

/// How long nothing has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTime(Duration);

impl FromStr for IdleTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = humantime::parse_duration(text);
        time.map(Self).map_err(|error| format!("{text:?} is not a time: {error}; such as 500ms, 30s, 2m"))
    }
}

impl fmt::Display for IdleTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// Values as the text people type.
mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Some).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(ServiceIndex, &str); 2] = [(ServiceIndex(0), "web"), (ServiceIndex(3), "dns")];

    fn resolved(text: &str) -> Result<Filter, String> {
        let query: Query = serde_urlencoded::from_str(text).map_err(|error| error.to_string())?;
        query.resolve(NAMES.into_iter(), 2).map_err(|error| error.to_string())
    }

    #[test]
    fn a_query_survives_the_query_string() {
        let text = "service=web&protocol=udp&client=10.1.0.0%2F16%3A53&vip=192.0.2.100%3A80&backend=10.0.0.11\
                    &state=established%2Ctime_wait&idle=1m+30s&worker=1";
        let query: Query = serde_urlencoded::from_str(text).unwrap();
        assert_eq!(query.to_query_string(), text);
        assert!(!query.is_empty() && Query::default().is_empty());
        assert_eq!(Query::default().to_query_string(), "");
        let filter = resolved(text).unwrap();
        assert_eq!((filter.service, filter.idle_min_ms), (Some(ServiceIndex(0)), 90_000));
        let states = filter.states.unwrap();
        assert!(states.has(TcpState::TimeWait) && !states.has(TcpState::Close));
        assert_eq!(resolved("").unwrap(), Filter::default());
    }

    #[test]
    fn endpoints_of_both_families_are_read_and_written() {
        for (text, written) in [
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("0.0.0.0/0:8080", "0.0.0.0/0:8080"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[2001:db8::/32]:80", "[2001:db8::/32]:80"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), written);
            assert_eq!(written.parse(), Ok(endpoint));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_is_allowed() {
        for (text, told) in [
            ("service=wbe", "the rules in force have no service \"wbe\"; is \"web\" meant?"),
            ("service=mail", "the rules in force have no service \"mail\""),
            ("worker=2", "there is no worker 2: they are numbered 0 to 1"),
            ("protocol=igmp", "\"igmp\" is not a protocol; allowed: tcp, udp, sctp, icmp, icmpv6"),
            ("client=10.1.0.0/33", "\"10.1.0.0/33\" is not a network"),
            ("client=2001:db8::/129", "\"2001:db8::/129\" is not a network"),
            ("client=[2001:db8::1]80", "\"[2001:db8::1]80\" is not an address"),
            ("client=[2001:db8::1]:http", "\"http\" is not a port"),
            ("client=[10.1.2.3]:80", "\"[10.1.2.3]\" is not an address"),
            ("backend=web1", "\"web1\" is not an address; allowed: an address"),
            ("vip=192.0.2.1:http", "\"http\" is not a port"),
            ("state=open", "\"open\" is not a state; allowed: none, syn_recv"),
            ("idle=soon", "\"soon\" is not a time"),
            ("colour=red", "unknown field `colour`, expected one of `service`"),
        ] {
            let error = resolved(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
