//! What kind of packet the kernel is asked to take: each class has a token bucket of its own.
//!
//! Reads frame bytes and trusts none of them; what it cannot read is [`Class::Rest`]. Not a security check: the
//! kernel judges the packet. Read first: RFC 826 (ARP), RFC 4861 (ND), RFC 2710 and 3810 (MLD), RFC 4271 (BGP), RFC 2328 (OSPF), RFC 5798
//! (VRRP), RFC 5881 and 5883 (BFD).

use dataplane::wire::PortPair;
use dataplane::wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use dataplane::wire::ipv4::{self, Ipv4, PROTOCOL_OSPF, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_VRRP};

/// A class of packets between the wire and a kernel twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// ARP, and its IPv6 counterpart: ICMPv6 router and neighbour discovery, redirects; and multicast listener discovery,
    /// without which switches that snoop on it keep neighbour discovery from us.
    Arp,
    /// BGP, OSPF, VRRP and BFD, unicast and multicast.
    Routing,
    /// Whatever else is unicast IPv4 or IPv6: ssh, ping, answers to health checks.
    Local,
    /// Everything else: other multicast and broadcast, other EtherTypes, broken headers.
    Rest,
}

impl Class {
    /// Every class, in counter order.
    pub const ALL: [Self; 4] = [Self::Arp, Self::Routing, Self::Local, Self::Rest];

    /// The name in the rules, in summaries and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Routing => "routing",
            Self::Local => "local",
            Self::Rest => "rest",
        }
    }
}

/// EtherTypes of VLAN tags (IEEE 802.1Q, 802.1ad). A twin may carry VLAN interfaces.
const ETHERTYPE_TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Tags looked behind: two is QinQ, the deepest that Linux stacks in practice.
const TAGS_MAX: usize = 2;

/// l4_port of BGP (RFC 4271 section 8.2.1).
const BGP: u16 = 179;
/// l4_port of BFD to a direct neighbour (RFC 5881 section 4).
const BFD_SINGLE_HOP: u16 = 3784;
/// l4_port of BFD to a neighbour further away (RFC 5883 section 5).
const BFD_MULTIHOP: u16 = 4784;
/// The TTL or hop limit that no packet from beyond the link can have (RFC 5082).
const HOP_LIMIT_ON_LINK: u8 = 255;

/// Bytes of the fixed IPv6 header (RFC 8200 section 3).
const IPV6_HEADER_LEN: usize = 40;
/// ICMPv6 as an IPv6 next header (RFC 4443).
const NEXT_HEADER_ICMPV6: u8 = 58;
/// ICMPv6 types 133 to 137: router and neighbour solicitation and advertisement, redirect (RFC 4861 section 4).
const ND_TYPES: std::ops::RangeInclusive<u8> = 133..=137;

/// ICMPv6 types of MLD: query, report, done (RFC 2710 section 3), report of version 2 (RFC 3810 section 5.2).
const MLD_TYPES: [u8; 4] = [130, 131, 132, 143];
/// The hop-by-hop options header, behind which MLD stands because of its router alert (RFC 8200 section 4.3).
const NEXT_HEADER_HOP_BY_HOP: u8 = 0;

/// The class of an Ethernet frame without FCS.
pub fn classify(frame: &[u8]) -> Class {
    let Some((link, mut packet)) = frame.split_first_chunk::<{ ethernet::HEADER_LEN }>() else {
        return Class::Rest;
    };
    let (to_group, mut ethertype) = (Ethernet(link).destination().is_group(), Ethernet(link).ethertype());
    for _ in 0..TAGS_MAX {
        if !ETHERTYPE_TAGS.contains(&ethertype) {
            break;
        }
        let Some((&[_, _, high, low], behind)) = packet.split_first_chunk() else { return Class::Rest };
        (ethertype, packet) = (u16::from_be_bytes([high, low]), behind);
    }
    let class = match ethertype {
        ETHERTYPE_ARP => Some(Class::Arp),
        ETHERTYPE_IPV4 => classify_ipv4(packet, to_group),
        ETHERTYPE_IPV6 => classify_ipv6(packet, to_group),
        _ => None,
    };
    class.unwrap_or(Class::Rest)
}

fn classify_ipv4(packet: &[u8], to_group: bool) -> Option<Class> {
    let header = Ipv4(packet.first_chunk()?);
    if header.version() != 4 || header.header_len() < ipv4::HEADER_LEN {
        return None;
    }
    // Only a whole packet surely has ports where a header should be.
    let l4 = if header.is_fragment() { None } else { packet.get(header.header_len()..) };
    if is_routing(header.protocol(), header.ttl(), l4) {
        return Some(Class::Routing);
    }
    let destination = header.addresses().destination();
    unicast(to_group || destination.is_multicast() || destination.is_broadcast())
}

/// Extension headers are not walked, but for MLD's: none of the other protocols looked for needs one, and RFC 6980 forbids
/// fragmented ND.
fn classify_ipv6(packet: &[u8], to_group: bool) -> Option<Class> {
    let (header, l4) = packet.split_first_chunk::<IPV6_HEADER_LEN>()?;
    let (version, next_header, hop_limit, destination_at) = (header[0] >> 4, header[6], header[7], 24);
    if version != 6 {
        return None;
    }
    // The kernel ignores ND from beyond the link (RFC 4861 section 7.1), so a flood of it is not ND's to pay for.
    let is_nd = next_header == NEXT_HEADER_ICMPV6 && l4.first().is_some_and(|kind| ND_TYPES.contains(kind));
    if is_nd && hop_limit == HOP_LIMIT_ON_LINK {
        return Some(Class::Arp);
    }
    // A link-local source (RFC 2710 section 3), which no router passes on.
    let is_link_local = header[8] == 0xfe && header[9] & 0xc0 == 0x80;
    if next_header == NEXT_HEADER_HOP_BY_HOP && is_link_local && is_mld(l4) {
        return Some(Class::Arp);
    }
    if is_routing(next_header, hop_limit, Some(l4)) {
        return Some(Class::Routing);
    }
    unicast(to_group || header[destination_at] == 0xff)
}

/// Whether MLD follows a hop-by-hop options header.
fn is_mld(hop_by_hop: &[u8]) -> bool {
    let Some(&[next_header, length]) = hop_by_hop.first_chunk() else { return false };
    let kind = hop_by_hop.get((usize::from(length) + 1) * 8);
    next_header == NEXT_HEADER_ICMPV6 && kind.is_some_and(|kind| MLD_TYPES.contains(kind))
}

/// VRRP and single-hop BFD count only with the hop limit that their receivers insist on: it cannot be forged from
/// afar, while a flood of protocol 112 from the Internet would otherwise push BGP out of its own class.
fn is_routing(protocol: u8, hop_limit: u8, l4: Option<&[u8]>) -> bool {
    let ports = l4.and_then(|l4| l4.first_chunk()).map(|ports| PortPair::from_wire(*ports));
    match (protocol, ports) {
        (PROTOCOL_OSPF, _) => true,
        (PROTOCOL_VRRP, _) => hop_limit == HOP_LIMIT_ON_LINK,
        (PROTOCOL_TCP, Some(ports)) => ports.source() == BGP || ports.destination() == BGP,
        (PROTOCOL_UDP, Some(ports)) => match ports.destination() {
            BFD_SINGLE_HOP => hop_limit == HOP_LIMIT_ON_LINK,
            BFD_MULTIHOP => true,
            _ => false,
        },
        _ => false,
    }
}

fn unicast(to_group: bool) -> Option<Class> {
    (!to_group).then_some(Class::Local)
}

#[cfg(test)]
mod tests {
    use etherparse::{
        ArpEthIpv4Packet, ArpOperation, EtherType, Ethernet2Header, Icmpv6Type, IgmpType, IpFragOffset,
        IpNumber, Ipv4Header, PacketBuilder, VlanId, igmp::MembershipReportV2Type,
    };
    use proptest::prelude::*;

    use super::*;

    const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const BROADCAST: [u8; 6] = [0xff; 6];
    const OSPF_ROUTERS: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];

    fn arp(tags: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let request = ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: PEER,
            sender_ipv4: [192, 0, 2, 9],
            target_mac: [0; 6],
            target_ipv4: [192, 0, 2, 1],
        };
        let mut frame = [BROADCAST, PEER].concat();
        tags(&mut frame);
        frame.extend(EtherType::ARP.0.to_be_bytes());
        frame.extend(request.to_bytes());
        frame
    }

    /// An IPv4 packet from a neighbour, its payload built by `payload`.
    fn ipv4(to: ([u8; 6], [u8; 4]), ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header =
            Ipv4Header::new(payload.len() as u16, ttl, IpNumber(protocol), [192, 0, 2, 9], to.1).unwrap();
        with_ipv4_header(to.0, &header, payload)
    }

    fn with_ipv4_header(to: [u8; 6], header: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
        let link = Ethernet2Header { source: PEER, destination: to, ether_type: EtherType::IPV4 };
        [&link.to_bytes()[..], &header.to_bytes(), payload].concat()
    }

    fn l4_ports(source: u16, destination: u16) -> Vec<u8> {
        [source.to_be_bytes(), destination.to_be_bytes(), [0, 8], [0, 0]].concat()
    }

    const HERE: ([u8; 6], [u8; 4]) = (DIRECTOR, [192, 0, 2, 1]);

    #[test]
    fn arp_and_neighbour_discovery_are_one_class() {
        assert_eq!(classify(&arp(|_| ())), Class::Arp);
        let solicitation = |hop_limit| {
            let kind = Icmpv6Type::NeighborSolicitation;
            let step = PacketBuilder::ethernet2(PEER, [0x33, 0x33, 0xff, 0, 0, 1]).ipv6(
                [0xfe; 16],
                [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1],
                hop_limit,
            );
            let mut frame = Vec::new();
            step.icmpv6(kind).write(&mut frame, &[0; 16]).unwrap();
            frame
        };
        assert_eq!(classify(&solicitation(255)), Class::Arp);
        assert_eq!(classify(&solicitation(64)), Class::Rest, "from beyond the link, to a group");
    }

    #[test]
    fn multicast_listener_discovery_goes_with_neighbour_discovery() {
        let query = |source: [u8; 16], kind: u8| {
            // Hop-by-hop: router alert (RFC 2711) and padding, then the ICMPv6 type.
            let payload = [58, 0, 5, 2, 0, 0, 1, 0, kind, 0, 0, 0];
            let mut frame = [&[0x33, 0x33, 0, 0, 0, 1][..], &PEER, &[0x86, 0xdd]].concat();
            frame.extend([0x60, 0, 0, 0, 0, payload.len() as u8, 0, 1]);
            frame.extend(source);
            frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend(payload);
            frame
        };
        let on_link = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!([130, 131, 132, 143].map(|kind| classify(&query(on_link, kind))), [Class::Arp; 4]);
        assert_eq!(classify(&query(on_link, 128)), Class::Rest, "a ping");
        assert_eq!(classify(&query([0x20; 16], 130)), Class::Rest, "from beyond the link");
        let whole = query(on_link, 130);
        assert!((0..whole.len() - 3).all(|len| classify(&whole[..len]) == Class::Rest));
    }

    #[test]
    fn routing_protocols_are_known_unicast_and_multicast() {
        let bgp = [l4_ports(40_000, 179), l4_ports(179, 40_000)].map(|ports| ipv4(HERE, 64, 6, &ports));
        let ospf = ipv4((OSPF_ROUTERS, [224, 0, 0, 5]), 1, 89, &[2, 1]);
        let vrrp = ipv4(([1, 0, 0x5e, 0, 0, 18], [224, 0, 0, 18]), 255, 112, &[0x21]);
        let bfd = ipv4(HERE, 255, 17, &l4_ports(49_152, 3784));
        let bfd_multihop = ipv4(HERE, 60, 17, &l4_ports(49_152, 4784));
        for frame in [&bgp[0], &bgp[1], &ospf, &vrrp, &bfd, &bfd_multihop] {
            assert_eq!(classify(frame), Class::Routing, "{frame:02x?}");
        }
        let mut over_ipv6 = Vec::new();
        let step = PacketBuilder::ethernet2(PEER, DIRECTOR).ipv6([1; 16], [2; 16], 64).tcp(179, 50_000, 1, 2);
        step.write(&mut over_ipv6, &[]).unwrap();
        assert_eq!(classify(&over_ipv6), Class::Routing);
    }

    #[test]
    fn from_afar_nobody_claims_to_be_a_router() {
        assert_eq!(classify(&ipv4(HERE, 254, 112, &[0x21])), Class::Local, "VRRP that was routed");
        assert_eq!(classify(&ipv4(HERE, 64, 17, &l4_ports(1, 3784))), Class::Local, "BFD that was routed");
        let mut fragment = Ipv4Header::new(8, 64, IpNumber::TCP, [192, 0, 2, 9], HERE.1).unwrap();
        fragment.fragment_offset = IpFragOffset::try_new(5).unwrap();
        let frame = with_ipv4_header(DIRECTOR, &fragment, &l4_ports(40_000, 179));
        assert_eq!(classify(&frame), Class::Local, "payload that looks like ports");
    }

    #[test]
    fn unicast_is_local_and_other_groups_are_the_rest() {
        assert_eq!(classify(&ipv4(HERE, 64, 6, &l4_ports(50_000, 22))), Class::Local);
        assert_eq!(classify(&ipv4(HERE, 64, 1, &[8, 0])), Class::Local, "ping");
        let mut ping6 = Vec::new();
        let step = PacketBuilder::ethernet2(PEER, DIRECTOR).ipv6([1; 16], [2; 16], 64);
        step.icmpv6_echo_request(1, 1).write(&mut ping6, &[]).unwrap();
        assert_eq!(classify(&ping6), Class::Local);

        let dhcp = l4_ports(68, 67);
        assert_eq!(classify(&ipv4((BROADCAST, [255; 4]), 64, 17, &dhcp)), Class::Rest);
        assert_eq!(classify(&ipv4((BROADCAST, [192, 0, 2, 255]), 64, 17, &dhcp)), Class::Rest);
        assert_eq!(classify(&ipv4((DIRECTOR, [239, 1, 1, 1]), 64, 17, &dhcp)), Class::Rest);
        let mut igmp = Vec::new();
        let report =
            IgmpType::MembershipReportV2(MembershipReportV2Type { group_address: [224, 1, 1, 1].into() });
        let step =
            PacketBuilder::ethernet2(PEER, [1, 0, 0x5e, 1, 1, 1]).ipv4([192, 0, 2, 9], [224, 1, 1, 1], 1);
        step.igmp(report).write(&mut igmp, &[]).unwrap();
        assert_eq!(classify(&igmp), Class::Rest);
        let lldp = [&[1, 0x80, 0xc2, 0, 0, 0x0e][..], &PEER, &[0x88, 0xcc, 0, 0]].concat();
        assert_eq!(classify(&lldp), Class::Rest);
    }

    #[test]
    fn vlan_tags_are_looked_behind_but_not_without_end() {
        let tags = |count: usize| arp(|frame| frame.extend([0x81, 0, 0, 7].repeat(count)));
        assert_eq!(
            [0, 1, 2, 3].map(|count| classify(&tags(count))),
            [Class::Arp, Class::Arp, Class::Arp, Class::Rest]
        );
        let mut tagged = Vec::new();
        let step = PacketBuilder::ethernet2(PEER, DIRECTOR)
            .double_vlan(VlanId::try_new(1).unwrap(), VlanId::try_new(2).unwrap());
        step.ipv4([192, 0, 2, 9], HERE.1, 64).tcp(1, 179, 0, 0).write(&mut tagged, &[]).unwrap();
        assert_eq!(classify(&tagged), Class::Routing);
    }

    #[test]
    fn cut_short_a_packet_never_gains_a_class() {
        let whole = ipv4(HERE, 64, 6, &l4_ports(40_000, 179));
        let classes: Vec<Class> = (0..=whole.len()).map(|len| classify(&whole[..len])).collect();
        assert!(classes[..34].iter().all(|class| *class == Class::Rest));
        assert!(classes[34..38].iter().all(|class| *class == Class::Local));
        assert!(classes[38..].iter().all(|class| *class == Class::Routing));
        let mut lying = whole;
        lying[14] = 0x44;
        assert_eq!(classify(&lying), Class::Rest, "a header of 16 bytes");
        lying[14] = 0x4f;
        assert_eq!(classify(&lying), Class::Local, "ports beyond the end");
        lying[14] = 0x65;
        assert_eq!(classify(&lying), Class::Rest, "version 6 under IPv4's EtherType");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_class(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            classify(&frame);
        }

        #[test]
        fn any_bytes_behind_an_ethertype_have_a_class(
            tags in 0..4usize,
            ethertype in proptest::sample::select(vec![ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, 0x8100]),
            version in 0u8..=255,
            packet in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut frame = [DIRECTOR, PEER].concat();
            frame.extend([0x81, 0, 0, 7].repeat(tags));
            frame.extend(ethertype.to_be_bytes());
            frame.push(version);
            frame.extend(packet);
            classify(&frame);
        }
    }
}
