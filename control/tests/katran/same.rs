//! Whether a packet is the recorded one, where another backend than Katran's ring chose may make a difference.

use std::net::IpAddr;

use serde_json::Value;

use crate::director::Fate;
use crate::sets::{hex, list, text};

/// What a case asks for.
pub(crate) fn expected(case: &Value) -> Fate {
    let bytes = hex(&text(case, "expected_hex"));
    match text(case, "expected_action").as_str() {
        "XDP_TX" | "TC_ACT_REDIRECT" => Fate::Sent(bytes),
        "XDP_PASS" | "TC_ACT_UNSPEC" => Fate::Punted(bytes),
        "XDP_DROP" => Fate::Dropped,
        other => panic!("{other}"),
    }
}

/// Whether the packet that was sent is the recorded one, or differs where another backend makes a difference, and in `more`.
pub(crate) fn is_as_recorded(
    case: &Value,
    set: &Value,
    recorded: &[u8],
    sent: &[u8],
    more: &[(usize, usize)],
) -> bool {
    if sent == recorded {
        return true;
    }
    let (mut with, mut without) = (recorded.to_vec(), sent.to_vec());
    let is_chosen = case["backend_choice"] == "hash"
        && outer_destination(sent).is_some_and(|real| reals_of(set, sent).contains(&real));
    if with.len() != without.len() || !is_chosen {
        return false;
    }
    for (at, len) in mask(case, recorded).into_iter().chain(more.iter().copied()) {
        with[at..at + len].fill(0);
        without[at..at + len].fill(0);
    }
    with == without
}

/// Bytes that another backend changes, as the recording has them. It has none where the ring's next real was of the other
/// family: then those of outer IPv6, destination and UDP checksum.
fn mask(case: &Value, recorded: &[u8]) -> Vec<(usize, usize)> {
    let recorded_ranges = case["mask_if_other_backend"].as_array().into_iter().flatten();
    let ranges: Vec<_> = recorded_ranges
        .map(|range| (range[0].as_u64().unwrap() as usize, range[1].as_u64().unwrap() as usize))
        .collect();
    match (ranges.is_empty() && recorded[14] >> 4 == 6, recorded[20]) {
        (true, UDP) => vec![(38, 16), (60, 2)],
        (true, _) => vec![(38, 16)],
        (false, _) => ranges,
    }
}

pub(crate) const TCP: u8 = 6;

const UDP: u8 = 17;

/// The packet in a tunnel.
pub(crate) fn inner(frame: &[u8]) -> Option<&[u8]> {
    let (header_len, protocol) = match frame.get(14)? >> 4 {
        4 => (20, *frame.get(23)?),
        6 => (40, *frame.get(20)?),
        _ => return None,
    };
    frame.get(14 + header_len + if protocol == UDP { 8 } else { 0 }..)
}

/// The reals of the VIP that the packet in a tunnel is to: of the most specific one, as Katran finds it. An ICMP error is to the VIP of
/// what it quotes, whose l4_port is not looked for.
pub(crate) fn reals_of(set: &Value, sent: &[u8]) -> Vec<IpAddr> {
    let Some(packet) = inner(sent) else { return Vec::new() };
    let (vip, protocol, l4): (IpAddr, _, _) = if packet[0] >> 4 == 6 {
        (<[u8; 16]>::try_from(&packet[24..40]).unwrap().into(), packet[6], &packet[40..])
    } else {
        let header_len = usize::from(packet[0] & 0xf) * 4;
        (<[u8; 4]>::try_from(&packet[16..20]).unwrap().into(), packet[9], &packet[header_len..])
    };
    let l4_port = u64::from(u16::from_be_bytes([l4[2], l4[3]]));
    let is_it = |listens: &&Value| {
        let has_port = matches!(protocol, TCP | UDP);
        is_within(vip, &text(listens, "address"), listens["cidr_prefix_len"].as_u64().unwrap())
            && (!has_port || listens["proto"] == protocol)
            && (!has_port || listens["port"] == l4_port || listens["port"] == 0)
    };
    let vips = list(&set["config"], "vips").iter().filter(is_it);
    let most_specific = vips
        .max_by_key(|vip| (vip["port"] != 0, vip["cidr_prefix_len"] == 0, vip["cidr_prefix_len"].as_u64()));
    let reals = most_specific.into_iter().flat_map(|vip| list(vip, "reals"));
    reals.map(|real| text(real, "address").parse().unwrap()).collect()
}

/// Whether an address is that of a VIP, or in the network of one.
fn is_within(address: IpAddr, vip: &str, prefix_len: u64) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let vip: IpAddr = vip.parse().unwrap();
    let ((a, len), (b, other_len)) = (bits(address), bits(vip));
    let prefix_len = if prefix_len == 0 { len } else { prefix_len };
    len == other_len && (a ^ b).leading_zeros() as u64 >= prefix_len
}

pub(crate) fn outer_destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(14)? >> 4 {
        4 => Some(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into()),
        _ => None,
    }
}
