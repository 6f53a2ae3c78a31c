//! Single values: text to a type, or a problem that says what is allowed. Nothing here knows of other values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};

use dataplane::local_port::L4_PORT_MIN;
use ipnet::{IpNet, Ipv4Net};

use super::checked::{MacAddress, Protocol};
use super::error::Problem;

/// FullNAT's local addresses each become an address of the twin: 4,096 of them are 268 million connections to
/// one backend endpoint, and more would only slow the kernel down.
const LOCAL_PREFIX_MIN: u8 = 20;

const LOCAL_L4_PORTS: u32 = (1 << 16) - L4_PORT_MIN as u32;

/// One of a few words.
pub(super) fn choice<T: Copy>(what: &str, text: &str, words: &[(&str, T)]) -> Result<T, Problem> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let allowed: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    Err(Problem::new(format!("{text:?} is not {what}"))
        .near(text, words.iter().map(|(word, _)| *word))
        .help(format!("allowed: {}", allowed.join(", "))))
}

/// A whole number from `min` to `max`, both allowed.
pub(super) fn whole<T: TryFrom<i128>>(what: &str, value: i128, min: i128, max: i128) -> Result<T, Problem> {
    let problem = || {
        Problem::new(format!("{value} is out of range for {what}")).help(format!("allowed: {min} to {max}"))
    };
    if !(min..=max).contains(&value) {
        return Err(problem());
    }
    T::try_from(value).map_err(|_| problem())
}

/// A name: short, and safe in a log line, a metric label and a path.
pub(super) fn name(text: &str, bytes_max: usize) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > bytes_max || !text.chars().all(allowed) {
        return Err(Problem::new(format!("{text:?} is not a name")).help(format!(
            "a name is 1 to {bytes_max} of the letters a-z, A-Z, the digits, `-`, `_` and `.`"
        )));
    }
    Ok(text.to_owned())
}

/// `02:00:00:00:00:01`, one station's.
pub(super) fn mac(text: &str) -> Result<MacAddress, Problem> {
    let help = "a MAC is six pairs of hexadecimal digits with colons, such as `02:00:00:00:00:01`";
    // The number parser behind `FromStr` would take a plus sign.
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    let mac = plain.then(|| text.parse::<MacAddress>().ok()).flatten();
    let mac = mac.ok_or_else(|| Problem::new(format!("{text:?} is not a MAC address")).help(help))?;
    if mac.0 == [0; 6] || mac.is_group() {
        return Err(Problem::new(format!("{text} is not the MAC address of one station"))
            .help("its first octet is even (odd ones are broadcast and multicast), and it is not all zero"));
    }
    Ok(mac)
}

/// The IPv4 address of one host.
pub(super) fn host(text: &str) -> Result<Ipv4Addr, Problem> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(ipv6_is_not_supported(text));
    }
    let address = text.parse().map_err(|_| {
        Problem::new(format!("{text:?} is not an IPv4 address"))
            .help("four decimal numbers without leading zeros, such as `10.0.0.11`; names are not resolved")
    })?;
    one_host(address)
}

fn one_host(address: Ipv4Addr) -> Result<Ipv4Addr, Problem> {
    let kind = match address.octets()[0] {
        0 => "of \"this network\"",
        127 => "a loopback address",
        224..=239 => "a multicast address",
        240.. => "a reserved or broadcast address",
        _ => return Ok(address),
    };
    Err(Problem::new(format!("{address} is {kind}, not the address of a host"))
        .help("allowed: 1.0.0.0 to 223.255.255.255 without 127.0.0.0/8"))
}

fn ipv6_is_not_supported(text: &str) -> Problem {
    Problem::new(format!("{text:?}: IPv6 is not supported here yet")).help("use an IPv4 address")
}

/// `ADDRESS[:PORT]`.
pub(super) fn endpoint(text: &str) -> Result<(Ipv4Addr, Option<u16>), Problem> {
    if text.parse::<SocketAddrV6>().is_ok() {
        return Err(ipv6_is_not_supported(text));
    }
    match text.split_once(':') {
        Some((address, l4_port)) if !l4_port.contains(':') => {
            Ok((host(address)?, Some(l4_port_of(l4_port)?)))
        }
        _ => Ok((host(text)?, None)),
    }
}

fn l4_port_of(text: &str) -> Result<u16, Problem> {
    // `u16::from_str` takes a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(l4_port) if l4_port != 0 && digits => Ok(l4_port),
        _ => Err(Problem::new(format!("{text:?} is not an l4 port")).help("allowed: 1 to 65535")),
    }
}

/// `tcp ADDRESS:PORT`.
pub(super) fn listen(text: &str) -> Result<(Protocol, Ipv4Addr, u16), Problem> {
    let grammar = "a listen is `tcp ADDRESS:PORT` or `udp ADDRESS:PORT`, such as `tcp 203.0.113.10:80`";
    let words: Vec<&str> = text.split_whitespace().collect();
    let [protocol, endpoint_text] = words[..] else {
        return Err(Problem::new(format!("{text:?} is not a protocol and an endpoint")).help(grammar));
    };
    let protocol = choice("a protocol", protocol, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)])?;
    match endpoint(endpoint_text)? {
        (vip, Some(l4_port)) => Ok((protocol, vip, l4_port)),
        (vip, None) => Err(Problem::new(format!("{vip} has no l4 port")).help(grammar)),
    }
}

/// `192.0.2.5/24`: a host and its network.
pub(super) fn interface_address(text: &str) -> Result<IpNet, Problem> {
    let net = prefix(text, "192.0.2.5/24")?;
    match net {
        IpNet::V4(v4) => {
            one_host(v4.addr())?;
            let edge = v4.prefix_len() < 31 && (v4.addr() == v4.network() || v4.addr() == v4.broadcast());
            if edge {
                let kind = if v4.addr() == v4.network() { "network" } else { "broadcast" };
                return Err(Problem::new(format!(
                    "{} is the {kind} address of {}, not a host in it",
                    v4.addr(),
                    v4.trunc()
                ))
                .help("give the address that the director itself shall have"));
            }
        }
        IpNet::V6(v6) => {
            let address = v6.addr();
            if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
                return Err(Problem::new(format!("{address} is not the address of a host")));
            }
        }
    }
    Ok(net)
}

/// `192.0.2.64/28`: addresses from the first to the last.
pub(super) fn local_addresses(text: &str) -> Result<Ipv4Net, Problem> {
    let net = match prefix(text, "192.0.2.64/28")? {
        IpNet::V4(net) => net,
        IpNet::V6(_) => return Err(ipv6_is_not_supported(text)),
    };
    if net.addr() != net.network() {
        return Err(Problem::new(format!("{text} has bits set beyond its prefix"))
            .label(format!("did you mean `{}`?", net.trunc()))
            .help("local addresses are whole networks: every address of it is used"));
    }
    if net.prefix_len() < LOCAL_PREFIX_MIN {
        return Err(Problem::new(format!("{text} is too large for local addresses")).help(format!(
            "allowed: /{LOCAL_PREFIX_MIN} to /32; one address carries {LOCAL_L4_PORTS} connections to a backend"
        )));
    }
    one_host(net.network())?;
    Ok(net)
}

fn prefix(text: &str, example: &str) -> Result<IpNet, Problem> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        return Err(Problem::new(format!("{text:?} has no prefix length"))
            .label(format!("the address alone is `{text}/{whole}`"))
            .help(format!("an address is written with its prefix length, such as `{example}`")));
    }
    text.parse().map_err(|_| {
        Problem::new(format!("{text:?} is not an address with a prefix length"))
            .help(format!("such as `{example}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(mac("02:00:5e:10:aB:ff").unwrap().to_string(), "02:00:5e:10:ab:ff");
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02-00-00-00-00-01",
            "002:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+1",
            "02:00:00:00:00:",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert!(mac(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(endpoint("10.0.0.11:8080").unwrap(), (Ipv4Addr::new(10, 0, 0, 11), Some(8080)));
        assert_eq!(endpoint("10.0.0.11").unwrap(), (Ipv4Addr::new(10, 0, 0, 11), None));
        for text in [
            "",
            ":80",
            "10.0.0.11:",
            "10.0.0.11:0",
            "10.0.0.11:65536",
            "10.0.0.11:+80",
            "10.0.0.11:-1",
            "10.0.0:80",
            "10.0.0.011:80",
            "0.0.0.0:80",
            "127.0.0.1:80",
            "224.0.0.5:80",
            "255.255.255.255:80",
            "[2001:db8::1]:80",
            "2001:db8::1",
            "web:80",
        ] {
            assert!(endpoint(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn listens() {
        let vip = Ipv4Addr::new(203, 0, 113, 10);
        assert_eq!(listen("tcp 203.0.113.10:80").unwrap(), (Protocol::Tcp, vip, 80));
        assert_eq!(listen(" udp   203.0.113.10:53 ").unwrap(), (Protocol::Udp, vip, 53));
        for text in [
            "",
            "203.0.113.10:80",
            "tcp 203.0.113.10",
            "tpc 203.0.113.10:80",
            "tcp 203.0.113.10 80",
            "TCP 1.2.3.4:5",
        ] {
            assert!(listen(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(interface_address("192.0.2.5/24").unwrap().to_string(), "192.0.2.5/24");
        assert_eq!(interface_address("192.0.2.4/31").unwrap().to_string(), "192.0.2.4/31");
        assert_eq!(interface_address("2001:db8::5/64").unwrap().to_string(), "2001:db8::5/64");
        for text in [
            "192.0.2.5",
            "192.0.2.5/33",
            "192.0.2.0/24",
            "192.0.2.255/24",
            "127.0.0.1/8",
            "::1/128",
            "::/0",
            "ff02::1/64",
        ] {
            assert!(interface_address(text).is_err(), "{text:?}");
        }
        assert_eq!(local_addresses("192.0.2.64/28").unwrap().to_string(), "192.0.2.64/28");
        for text in ["192.0.2.64", "192.0.2.65/28", "10.0.0.0/19", "0.0.0.0/24", "2001:db8::/120", "x/28"] {
            assert!(local_addresses(text).is_err(), "{text:?}");
        }
    }
}
