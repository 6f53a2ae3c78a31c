//! The judge of tunnels itself: what it takes, what it refuses, and that a kernel answers what it unwraps.

use std::process::Command;

use testbed::ends::{ECHO_PORT, EchoServers, TunnelEnds};
use testbed::lab::{Family, Lab, top};

/// Builds one packet of each kind, by hand, and turns every bit of its outer headers over, one at a time. Whatever has a checksum
/// or a rule must be refused then; TTL, DSCP, addresses and ports of IPv6 have neither, so the judge tells them.
const EVERY_BIT: &str = r#"
import struct, sys
sys.path.insert(0, sys.argv[1])
from tunnel_end import Judge

def summed(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return struct.pack("!H", total ^ 0xffff)

def ipv4(source, destination, protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, destination)
    return head[:10] + summed(head) + head[12:] + payload

def ipv6(source, destination, protocol, payload):
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + destination + payload

def udp(source, destination, port, payload):
    head = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0)
    pseudo = source + destination + struct.pack("!II", 8 + len(payload), 17)
    return head[:6] + summed(pseudo + head + payload) + payload

OUTER = {4: (ipv4, b"\x0a\0\0\x05", b"\x0a\0\0\x0b"), 6: (ipv6, b"\x20\x01" + b"\5" * 14, b"\x20\x01" + b"\6" * 14)}
CLIENT = {4: b"\xc6\x33\x64\x0a", 6: b"\x20\x01" + b"\7" * 14}
VIP = {4: b"\xc0\0\2\x64", 6: b"\x20\x01\x0d\xb8\0\1" + bytes(8) + b"\1\0"}
NUMBER = {4: 4, 6: 41}
TYPE = {4: b"\x08\0", 6: b"\x86\xdd"}

def inner(version):
    source, destination = CLIENT[version], VIP[version]
    return {4: ipv4, 6: ipv6}[version](source, destination, 17, udp(source, destination, 53, b"datagram"))

def wrapped(kind, version, inner_version):
    build, source, destination = OUTER[version]
    payload = inner(inner_version)
    if kind == "ipip":
        return build(source, destination, NUMBER[inner_version], payload)
    if kind == "gre":
        return build(source, destination, 47, b"\0\0" + TYPE[inner_version] + payload)
    if kind == "gre:7":
        return build(source, destination, 47, b"\x20\0" + TYPE[inner_version] + b"\0\0\0\7" + payload)
    head = b"" if kind == "gue1:9886" else bytes([0, NUMBER[inner_version], 0, 0])
    return build(source, destination, 17, udp(source, destination, int(kind[5:]), head + payload))

def cut(packet, version, first, end):
    head = 20 if version == 4 else 40
    part, more = packet[head:][first:end], end is not None
    if version == 4:
        new = packet[:2] + struct.pack("!HHHBBH", 20 + len(part), 1, more << 13 | first // 8, 64, packet[9], 0) + packet[12:20]
        return new[:10] + summed(new) + new[12:] + part
    fragment = struct.pack("!BBHI", packet[6], 0, first | more, 7)
    return packet[:4] + struct.pack("!HB", 8 + len(part), 44) + packet[7:40] + fragment + part

# Where the bits are that the judge only tells, by outer version: traffic class, flow label, hop limit, addresses of IPv6.
TOLD = {4: set(), 6: set(range(4, 32)) | set(range(56, 320))}
for kind in ["ipip", "gre", "gre:7", "gue0:6080", "gue1:9886"]:
    for version in (4, 6):
        for inner_version in (4, 6):
            packet = wrapped(kind, version, inner_version)
            judge = Judge(kind, ["192.0.2.100", "2001:db8:1::100"])
            assert judge.packet(packet) == inner(inner_version), (kind, version, judge.said())
            assert judge.packets == {f"{inner_version}in{version}": 1} and not judge.faults
            size = len(packet) - len(inner(inner_version))
            passed = []
            for bit in range(size * 8):
                if bit in TOLD[version]:
                    continue
                wrong = bytearray(packet)
                wrong[bit // 8] ^= 128 >> bit % 8
                if judge.packet(bytes(wrong)) is not None:
                    passed.append(bit)
            assert not passed, (kind, version, inner_version, passed)
            for length in range(1, len(packet)):
                assert judge.packet(packet[:length]) is None, (kind, length)
            assert judge.packet(packet + b"\0") is None, kind
            # In three fragments, the last one first.
            judge = Judge(kind, ["192.0.2.100", "2001:db8:1::100"])
            parts = [cut(packet, version, *part) for part in ((32, None), (0, 16), (16, 32))]
            assert [judge.packet(part) for part in parts] == [None, None, inner(inner_version)], judge.said()
            assert judge.fragments == 3 and not judge.faults and not judge.reassembly.parts
print("judged")
"#;

#[test]
fn every_wrong_bit_of_an_outer_header_is_refused() {
    let directory = top().join("tests/src");
    let output =
        Command::new("python3").args(["-B", "-c", EVERY_BIT]).arg(directory).output().expect("python3");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "judged\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Sends a datagram to the VIP, wrapped as argument 2 says, to argument 1; the answer comes to a socket of the same endpoint.
const WRAP: &str = r#"
import socket, struct, sys
end, vip, source, port = sys.argv[1], *sys.argv[2:4], int(sys.argv[4])
family = socket.AF_INET6 if ":" in vip else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(10)
s.bind((source, 40000))
packed = [socket.inet_pton(family, address) for address in (source, vip)]
payload = b"wrapped by hand"
length = 8 + len(payload)
def summed(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff
head = struct.pack("!HHH", 40000, port, length)
pseudo = packed[0] + packed[1] + struct.pack("!II", length, 17)
datagram = head + struct.pack("!H", summed(pseudo + head + b"\0\0" + payload + b"\0" * (len(payload) % 2))) + payload
if family == socket.AF_INET6:
    inner = struct.pack("!IHBB", 6 << 28, length, 17, 64) + packed[0] + packed[1] + datagram
else:
    inner = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0, 64, 17, 0, *packed)
    inner = inner[:10] + struct.pack("!H", summed(inner)) + inner[12:] + datagram
# The kernel makes the outer header.
raw = socket.socket(socket.AF_INET6 if ":" in end else socket.AF_INET, socket.SOCK_RAW, 41 if ":" in vip else 4)
raw.sendto(inner, (end, 0))
print(s.recv(100).decode())
"#;

/// Without a director: the client's kernel makes the outer header, the backend's kernel answers past everybody.
#[test]
fn what_an_end_unwraps_is_answered_by_the_kernel() {
    let lab = Lab::routed();
    lab.own_vips();
    let _servers = EchoServers::start(&lab, &Family::BOTH.map(Family::vip));
    let ends = TunnelEnds::start(&lab, "ipip");
    let port = ECHO_PORT.to_string();
    for end in ["10.0.0.11", "2001:db8:2::11"] {
        for family in Family::BOTH {
            let argv = ["python3", "-c", WRAP, end, family.vip(), family.client(), &port];
            assert_eq!(lab.succeed("client", &argv), "backend1\nwrapped by hand\n", "{family:?} to {end}");
        }
    }
    let judged = ends.stop();
    assert_eq!(judged[0]["packets"], serde_json::json!({"4in4": 1, "6in4": 1, "4in6": 1, "6in6": 1}));
    assert_eq!(judged[0]["sources"], serde_json::json!(["198.51.100.10", "2001:db8:c::10"]));
}

/// The link that the lab calls narrow is, and its router says so to whoever sends more.
#[test]
fn a_narrow_link_passes_1400_bytes_and_no_more() {
    let lab = Lab::routed();
    lab.narrow(1400);
    for (family, headers) in [(Family::Ipv4, 20 + 8), (Family::Ipv6, 40 + 8)] {
        let ping = |bytes: usize| {
            let size = (bytes - headers).to_string();
            lab.run("backend1", &["ping", "-c", "1", "-W", "5", "-M", "do", "-s", &size, family.client()])
        };
        assert!(ping(1400).status.success(), "{family:?}");
        let refused = String::from_utf8_lossy(&ping(1401).stdout).into_owned();
        assert!(refused.contains("From ") && refused.contains("mtu"), "{family:?}: {refused}");
    }
}

#[test]
fn a_lossy_link_loses_one_in_so_many() {
    let lab = Lab::routed();
    lab.lossy(5);
    let out = lab.run("client", &["ping", "-c", "10", "-i", "0.05", "-W", "1", "10.0.0.11"]);
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    // Questions and answers are counted alike: of ten questions two are lost or more, and of their answers one.
    let received =
        out.split(" received").next().and_then(|said| said.rsplit(' ').next()).map(str::parse::<u8>);
    assert!(matches!(received, Some(Ok(5..=8))), "{out}");
}
