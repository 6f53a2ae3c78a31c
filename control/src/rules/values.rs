//! Single values: text to a type, or a problem that says what is allowed. Nothing here knows of other values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dataplane::local_port::L4_PORT_MIN;
use ipnet::IpNet;

use super::checked::{L4Ports, Listen, MacAddress, Prefix, Protocol};
use super::error::Problem;

/// VIPs and FullNAT's local addresses each become an address of the twin: 4,096 local ones are 268 million connections to
/// one backend endpoint, and more would only slow the kernel down.
pub(super) const TWIN_HOST_BITS_MAX: u8 = 12;

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

/// The address of one host.
pub(super) fn host(text: &str) -> Result<IpAddr, Problem> {
    let address = text.parse().map_err(|_| {
        Problem::new(format!("{text:?} is not an address")).help(
            "an IPv4 address is four decimal numbers without leading zeros, such as `10.0.0.11`, \
             an IPv6 address such as `2001:db8::11`; names are not resolved",
        )
    })?;
    one_host(address)?;
    Ok(address)
}

/// Whether rules take `address` for that of a VIP or a backend.
pub(crate) fn is_host(address: IpAddr) -> bool {
    one_host(address).is_ok()
}

fn one_host(address: IpAddr) -> Result<(), Problem> {
    match address {
        IpAddr::V4(address) => one_host_v4(address),
        IpAddr::V6(address) => one_host_v6(address),
    }
}

fn one_host_v4(address: Ipv4Addr) -> Result<(), Problem> {
    let kind = match address.octets()[0] {
        0 => "of \"this network\"",
        127 => "a loopback address",
        224..=239 => "a multicast address",
        240.. => "a reserved or broadcast address",
        _ => return Ok(()),
    };
    Err(Problem::new(format!("{address} is {kind}, not the address of a host"))
        .help("allowed: 1.0.0.0 to 223.255.255.255 without 127.0.0.0/8"))
}

/// RFC 4291 section 2.4.
fn one_host_v6(address: Ipv6Addr) -> Result<(), Problem> {
    let kind = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "the unspecified address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "the loopback address",
        [0, 0, 0, 0, 0, 0xffff, ..] => "an IPv4-mapped address",
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        _ => return Ok(()),
    };
    Err(Problem::new(format!("{address} is {kind}, not the address of a host"))
        .help("allowed: global and unique local addresses, such as `2001:db8::11`"))
}

/// `ADDRESS[:PORT]`.
pub(super) fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), Problem> {
    let (address, l4_port) = split_l4_port(text)?;
    let address = host(address)?;
    let of_backend = "allowed: 1 to 65535";
    Ok((address, l4_port.map(|text| l4_port_of(text, of_backend)).transpose()?))
}

/// What stands before and behind the colon of `ADDRESS:PORT`. An IPv6 address stands in brackets, also without a port: of
/// `2001:db8::1:80` nobody could say what its end is.
fn split_l4_port(text: &str) -> Result<(&str, Option<&str>), Problem> {
    let help = "an IPv6 address stands in brackets: `[2001:db8::11]`, with a port `[2001:db8::11]:8080`";
    let Some(in_brackets) = text.strip_prefix('[') else {
        return match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                Err(Problem::new(format!("{text:?} is not an endpoint")).help(help))
            }
            Some((address, l4_port)) => Ok((address, Some(l4_port))),
            None => Ok((text, None)),
        };
    };
    let split = in_brackets.split_once(']').filter(|(address, _)| address.contains(':'));
    match split.map(|(address, behind)| (address, behind.strip_prefix(':'), behind)) {
        Some((address, Some(l4_port), _)) => Ok((address, Some(l4_port))),
        Some((address, None, "")) => Ok((address, None)),
        _ => Err(Problem::new(format!("{text:?} is not an endpoint")).help(help)),
    }
}

fn l4_port_of(text: &str, help: &str) -> Result<u16, Problem> {
    // `u16::from_str` takes a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(l4_port) if l4_port != 0 && digits => Ok(l4_port),
        _ => Err(Problem::new(format!("{text:?} is not an l4 port")).help(help)),
    }
}

/// `80`, `8000-8100`, or `*`, which LVS writes `0`.
fn l4_ports(text: &str) -> Result<L4Ports, Problem> {
    let help = "allowed: 1 to 65535, a range such as `8000-8100`, or `*` for every port";
    if matches!(text, "*" | "0") {
        return Ok(L4Ports::ANY);
    }
    let Some((first, last)) = text.split_once('-') else { return l4_port_of(text, help).map(L4Ports::one) };
    let l4_ports = L4Ports { first: l4_port_of(first, help)?, last: l4_port_of(last, help)? };
    if l4_ports.first >= l4_ports.last {
        return Err(
            Problem::new(format!("the range {text} does not go from a port to a higher one")).help(help)
        );
    }
    Ok(l4_ports)
}

fn vips(text: &str) -> Result<Prefix, Problem> {
    hosts(text, "a network of VIPs is whole: every address of it is one")
}

/// `203.0.113.10`, or `203.0.113.0/28`: from the first address to the last.
pub(super) fn hosts(text: &str, whole: &str) -> Result<Prefix, Problem> {
    if !text.contains('/') {
        return Ok(host(text)?.into());
    }
    let net = whole_network(text, "203.0.113.0/28", whole)?;
    one_host(net.network())?;
    one_host(net.broadcast())?;
    Ok(Prefix::new(net.network(), net.prefix_len()))
}

/// `tcp ADDRESS:PORT`.
pub(super) fn listen(text: &str) -> Result<Listen, Problem> {
    let grammar = "a listen is `tcp ADDRESS:PORT`, `udp ADDRESS:PORT`, `sctp ADDRESS:PORT` or `icmp ADDRESS`, such as `tcp 203.0.113.10:80`";
    let words: Vec<&str> = text.split_whitespace().collect();
    let [protocol, endpoint] = words[..] else {
        return Err(Problem::new(format!("{text:?} is not a protocol and an endpoint")).help(grammar));
    };
    let protocols =
        [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp), ("icmp", Protocol::Icmp)];
    let protocol = choice("a protocol", protocol, &protocols)?;
    if protocol == Protocol::Icmp {
        return listen_for_pings(endpoint);
    }
    match split_l4_port(endpoint)? {
        (addresses, Some(text)) => Ok(Listen { protocol, vips: vips(addresses)?, l4_ports: l4_ports(text)? }),
        (addresses, None) => Err(Problem::new(format!("{} has no l4 port", vips(addresses)?)).help(grammar)),
    }
}

/// `ADDRESS` of `icmp ADDRESS`: of IPv6 with brackets, as elsewhere, or without, as no port can follow.
fn listen_for_pings(endpoint: &str) -> Result<Listen, Problem> {
    let addresses = match split_l4_port(endpoint) {
        Ok((addresses, None)) => addresses,
        Ok((addresses, Some(l4_port))) => {
            return Err(Problem::new(format!("l4 port {l4_port} of ICMP, which has none"))
                .label(format!("`icmp {addresses}`"))
                .help("such a service takes echo requests (ping) to the address, and nothing else"));
        }
        Err(_) => endpoint,
    };
    Ok(Listen { protocol: Protocol::Icmp, vips: vips(addresses)?, l4_ports: L4Ports::one(0) })
}

/// `90s`, `15m`: a whole number and its unit.
pub(super) fn duration(what: &str, text: &str, min: Duration, max: Duration) -> Result<Duration, Problem> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = units.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
    let (Ok(number), Some(unit_ms)) = (number.parse::<u64>(), unit_ms) else {
        return Err(Problem::new(format!("{text:?} is not a duration")).help(
            "a duration is a whole number and a unit, `ms`, `s`, `m`, `h` or `d`, such as `90s` or `15m`",
        ));
    };
    let duration = Duration::from_millis(number.saturating_mul(unit_ms));
    if !(min..=max).contains(&duration) {
        return Err(Problem::new(format!("{text:?} is out of range for {what}")).help(format!(
            "allowed: {} to {}",
            duration_text(min),
            duration_text(max)
        )));
    }
    Ok(duration)
}

/// A duration as the rules write it, in the largest unit that gives a whole number.
pub(super) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let whole = units.iter().find(|(_, unit_ms)| ms > 0 && ms.is_multiple_of(*unit_ms));
    whole.map_or_else(|| format!("{ms}ms"), |(unit, unit_ms)| format!("{}{unit}", ms / unit_ms))
}

/// `1000/s`: events a second.
pub(super) fn per_second(text: &str) -> Result<i128, Problem> {
    let number = text.strip_suffix("/s").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| {
        Problem::new(format!("{text:?} is not a rate"))
            .help("a rate is a whole number a second, such as `1000` or `\"1000/s\"`")
    })
}

/// `192.0.2.5/24`: a host and its network.
pub(super) fn interface_address(text: &str) -> Result<IpNet, Problem> {
    let net = prefix(text, "192.0.2.5/24")?;
    match net {
        IpNet::V4(v4) => {
            one_host_v4(v4.addr())?;
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
pub(super) fn local_addresses(text: &str) -> Result<IpNet, Problem> {
    let net = whole_network(
        text,
        "192.0.2.64/28",
        "local addresses are whole networks: every address of it is used",
    )?;
    let shortest = net.max_prefix_len() - TWIN_HOST_BITS_MAX;
    if net.prefix_len() < shortest {
        return Err(Problem::new(format!("{text} is too large for local addresses")).help(format!(
            "allowed: /{shortest} to /{}; one address carries {LOCAL_L4_PORTS} connections to a backend",
            net.max_prefix_len()
        )));
    }
    one_host(net.network())?;
    Ok(net)
}

fn whole_network(text: &str, example: &str, help: &str) -> Result<IpNet, Problem> {
    let net = prefix(text, example)?;
    if net.addr() != net.network() {
        return Err(Problem::new(format!("{text} has bits set beyond its prefix"))
            .label(format!("did you mean `{}`?", net.trunc()))
            .help(help));
    }
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
        let address = IpAddr::from([10, 0, 0, 11]);
        assert_eq!(endpoint("10.0.0.11:8080").unwrap(), (address, Some(8080)));
        assert_eq!(endpoint("10.0.0.11").unwrap(), (address, None));
        let address: IpAddr = "2001:db8::11".parse().unwrap();
        assert_eq!(endpoint("[2001:db8::11]:8080").unwrap(), (address, Some(8080)));
        assert_eq!(endpoint("[2001:db8::11]").unwrap(), (address, None));
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
            "2001:db8::1",
            "2001:db8::1:80",
            "[2001:db8::1",
            "[2001:db8::1]80",
            "[2001:db8::1]:",
            "[10.0.0.11]:80",
            "[fe80::1]:80",
            "[::ffff:10.0.0.11]:80",
            "[ff02::1]:80",
            "[::1]:80",
            "[::]:80",
            "web:80",
        ] {
            assert!(endpoint(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn listens() {
        let vips = Prefix::from(IpAddr::from([203, 0, 113, 10]));
        let l4_ports = L4Ports::one(80);
        assert_eq!(
            listen("tcp 203.0.113.10:80").unwrap(),
            Listen { protocol: Protocol::Tcp, vips, l4_ports }
        );
        let network = Prefix::new(IpAddr::from([203, 0, 113, 0]), 28);
        let l4_ports = L4Ports { first: 8000, last: 8100 };
        assert_eq!(
            listen(" udp   203.0.113.0/28:8000-8100 ").unwrap(),
            Listen { protocol: Protocol::Udp, vips: network, l4_ports }
        );
        for text in [
            "tcp 203.0.113.10:*",
            "udp 203.0.113.0/28:1-65535",
            "tcp 203.0.113.10:443",
            "tcp [2001:db8::10]:80",
            "tcp [2001:db8::/64]:8000-8100",
            "udp [2001:db8::10]:*",
        ] {
            assert_eq!(listen(text).unwrap().to_string(), text);
        }
        assert_eq!(listen("tcp 203.0.113.10:0").unwrap(), listen("tcp 203.0.113.10:*").unwrap());
        assert_eq!(listen("tcp 203.0.113.10/32:80").unwrap(), listen("tcp 203.0.113.10:80").unwrap());
        for text in [
            "",
            "203.0.113.10:80",
            "tcp 203.0.113.10",
            "tpc 203.0.113.10:80",
            "tcp 203.0.113.10 80",
            "TCP 1.2.3.4:5",
            "tcp 203.0.113.10:80-",
            "tcp 203.0.113.10:80-80",
            "tcp 203.0.113.10:81-80",
            "tcp 203.0.113.10:0-80",
            "tcp 203.0.113.10:80-90-100",
            "tcp 203.0.113.10:**",
            "tcp 203.0.113.10/28:80",
            "tcp 203.0.113.0/33:80",
            "tcp 0.0.0.0/0:80",
            "tcp 126.0.0.0/7:80",
            "tcp [203.0.113.10]:80",
            "tcp 2001:db8::10:80",
            "tcp [2001:db8::10]/64:80",
            "tcp [2001:db8::10/64]:80",
            "tcp [::/0]:80",
        ] {
            assert!(listen(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(24 * 86_400));
        let parsed = |text: &str| duration("a timeout", text, min, max);
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7_200), ("24d", 24 * 86_400), ("1000ms", 1)]
        {
            assert_eq!(parsed(text).unwrap(), Duration::from_secs(seconds));
        }
        for text in ["", "s", "90", "90 s", "-1s", "+1s", "1.5s", "1m30s", "0s", "999ms", "25d", "90S"] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
        assert!(parsed("99999999999999999999d").is_err() && parsed("18446744073709551615d").is_err());
        for text in ["90s", "15m", "2h", "24d", "1500ms"] {
            assert_eq!(duration_text(parsed(text).unwrap()), text);
        }
        assert_eq!(duration_text(Duration::ZERO), "0ms");
    }

    #[test]
    fn rates() {
        assert_eq!(per_second("1000/s").unwrap(), 1_000);
        for text in ["", "/s", "1000", "1000/m", "-1/s", "+1/s", "1 /s"] {
            assert!(per_second(text).is_err(), "{text:?}");
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
        assert_eq!(local_addresses("2001:db8::/116").unwrap().to_string(), "2001:db8::/116");
        for text in [
            "192.0.2.64",
            "192.0.2.65/28",
            "10.0.0.0/19",
            "0.0.0.0/24",
            "2001:db8::/115",
            "2001:db8::1/120",
            "fe80::/120",
            "x/28",
        ] {
            assert!(local_addresses(text).is_err(), "{text:?}");
        }
    }
}
