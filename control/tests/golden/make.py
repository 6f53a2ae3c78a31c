#!/usr/bin/env python3
"""Writes in.pcap of every golden case beside its rules.toml. Needs scapy (apt-get install python3-scapy).

Run it after changing a case, then look at what changed: CROSSDOCK_GOLDEN=rewrite cargo test -p control --test golden
"""

import random
from pathlib import Path

from scapy.all import (
    ARP, GRE, ICMP, IP, SCTP, TCP, UDP, Ether, ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NS,
    ICMPv6PacketTooBig, ICMPv6ParamProblem, ICMPv6TimeExceeded, IPOption, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting, RawPcapWriter, SCTPChunkData, SCTPChunkInit, fragment, raw,
)

HERE = Path(__file__).parent
VIP = "203.0.113.10"
FRONT, BACK, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:09:09"


def client(number):
    """Endpoint of a client."""
    return f"198.51.100.{1 + number % 200}", 40_000 + number


def local(connection):
    """FullNAT's local endpoint of the n-th connection, from 1: every address of the /30, then the next l4_port."""
    return f"10.0.0.{64 + connection % 4}", 1024 + connection // 4


def to_vip(number, l4, **ip):
    return Ether(dst=FRONT, src=ROUTER) / IP(src=client(number)[0], dst=VIP, ttl=64, **ip) / l4


def from_backend(address, connection, l4):
    mac = "02:00:00:00:01:%02x" % int(address.split(".")[-1])
    return Ether(dst=BACK, src=mac) / IP(src=address, dst=local(connection)[0], ttl=64) / l4


class Capture:
    """Packets, a millisecond apart unless told otherwise."""

    def __init__(self):
        self.packets, self.time_ms = [], 1_700_000_000_000

    def add(self, packet, after_ms=1):
        self.time_ms += after_ms
        self.packets.append((self.time_ms, raw(packet)))

    def write(self, name):
        with RawPcapWriter(str(HERE / name / "in.pcap"), linktype=1) as writer:
            writer.write_header(None)
            for time_ms, packet in self.packets:
                writer.write_packet(packet, sec=time_ms // 1000, usec=time_ms % 1000 * 1000)


def dr_tcp():
    capture = Capture()
    for number in range(9):
        port = client(number)[1]
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="S", seq=1)))
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="A", seq=2, ack=1)))
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="PA", seq=2, ack=1) / (b"x" * number * 41)))
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="FA", seq=90, ack=1)))
    capture.add(to_vip(20, TCP(sport=1, dport=80, flags="A")))
    capture.add(to_vip(20, TCP(sport=1, dport=81, flags="S")))
    capture.add(to_vip(21, TCP(sport=1, dport=80, flags="S"), options=[IPOption(b"\x01")] * 4))
    low = to_vip(22, TCP(sport=1, dport=80, flags="S"))
    low[IP].ttl = 1
    capture.add(low)
    capture.add(Ether(dst="ff:ff:ff:ff:ff:ff", src=ROUTER) / ARP(psrc="192.0.2.1", pdst="192.0.2.5"))
    # FIN_WAIT lasts 120 s, a half-open connection 60 s: of the ten one is left, which starts again here.
    capture.add(to_vip(21, TCP(sport=1, dport=80, flags="S")), after_ms=50_000)
    capture.add(to_vip(0, TCP(sport=client(0)[1], dport=80, flags="A")), after_ms=80_000)
    capture.write("dr-tcp")


def fullnat_tcp():
    capture = Capture()
    backends = ["10.0.0.11", "10.0.0.12"]
    for number in range(6):
        port, backend, connection = client(number)[1], backends[number % 2], number + 1
        answer = lambda **tcp: from_backend(
            backend, connection, TCP(sport=8080, dport=local(connection)[1], **tcp) / tcp_payload
        )
        tcp_payload = b""
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="S", seq=1)))
        capture.add(answer(flags="SA", seq=7, ack=2))
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="A", seq=2, ack=8)))
        request = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" + b"x" * number
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="PA", seq=2, ack=8) / request))
        tcp_payload = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(number * 31 % 256))
        capture.add(answer(flags="PA", seq=8, ack=2 + len(request)))
        tcp_payload = b""
        capture.add(answer(flags="FA", seq=200, ack=2 + len(request)))
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="FA", seq=90, ack=201)))
        capture.add(answer(flags="A", seq=201, ack=91))
    # An answer that nobody asked for, and one after TIME_WAIT's 120 s.
    capture.add(from_backend("10.0.0.11", 90, TCP(sport=8080, dport=local(90)[1], flags="A")))
    capture.add(from_backend("10.0.0.11", 1, TCP(sport=8080, dport=local(1)[1], flags="A")), after_ms=130_000)
    capture.write("fullnat-tcp")


def udp():
    capture = Capture()
    for number in range(6):
        port = client(number)[1]
        capture.add(to_vip(number, UDP(sport=port, dport=53) / (b"q" * (number + 1))))
        connection = number + 1
        capture.add(to_vip(number, UDP(sport=port, dport=5353) / (b"q" * (2 * number + 1))))
        backend = UDP(sport=53, dport=local(connection)[1]) / (b"a" * (30 + number))
        capture.add(from_backend("10.0.0.21", connection, backend))
        none = UDP(sport=53, dport=local(connection)[1], chksum=0) / b"none"
        capture.add(from_backend("10.0.0.21", connection, none))
    capture.add(to_vip(0, UDP(sport=client(0)[1], dport=5353, chksum=0) / b"without a checksum"))
    capture.add(to_vip(0, UDP(sport=9, dport=54) / b"nobody listens"))
    # All expire after 300 s; the next datagram is a new connection, from another local port.
    capture.add(to_vip(1, UDP(sport=client(1)[1], dport=5353) / b"again"), after_ms=310_000)
    capture.write("udp")


def fragments():
    capture = Capture()
    whole = to_vip(1, UDP(sport=4_000, dport=53) / (b"f" * 2_000))
    for piece in fragment(whole, fragsize=800):
        capture.add(piece)
    whole = to_vip(1, TCP(sport=4_000, dport=80, flags="S") / (b"f" * 2_000))
    for piece in fragment(whole, fragsize=1_400):
        capture.add(piece)
    elsewhere = whole.copy()
    elsewhere[IP].dst = "192.0.2.77"
    for piece in fragment(elsewhere, fragsize=1_400):
        capture.add(piece)
    for piece in fragment(from_backend("10.0.0.11", 1, UDP(sport=53, dport=1024) / (b"f" * 900)), fragsize=600):
        capture.add(piece)
    for piece in fragment(to_vip(1, ICMP() / (b"f" * 900)), fragsize=600):
        capture.add(piece)
    capture.add(to_vip(1, UDP(sport=4_000, dport=53) / b"whole", flags="DF"))
    # FullNAT, the last fragment first: those before the first wait for it; and an answer, likewise.
    whole = to_vip(2, UDP(sport=4_000, dport=53) / (b"abcdefg" * 700), id=7)
    for piece in reversed(fragment(whole, fragsize=1_480)):
        capture.add(piece)
    answer = from_backend("10.0.0.21", 2, UDP(sport=53, dport=local(2)[1]) / (b"hijklmn" * 700))
    for piece in reversed(fragment(answer, fragsize=1_480)):
        capture.add(piece)
    # Teardrop: the second reaches into the first. What follows goes no further either.
    first, second, third = fragment(to_vip(3, UDP(sport=4_000, dport=53) / (b"f" * 2_000), id=8), fragsize=800)
    second[IP].frag -= 3
    for piece in (first, second, third):
        capture.add(piece)
    # A TCP header in two pieces (RFC 1858), and a piece that would overwrite its control bits (RFC 3128).
    for piece in fragment(to_vip(4, TCP(sport=4_000, dport=80, flags="S") / (b"f" * 40), id=9), fragsize=16):
        capture.add(piece)
    # One that comes alone is dropped when its time is over.
    capture.add(fragment(to_vip(5, UDP(sport=4_000, dport=53) / (b"f" * 2_000), id=10), fragsize=800)[1])
    capture.add(to_vip(6, UDP(sport=4_000, dport=53) / b"later"), after_ms=4_000)
    capture.write("fragments")


def icmp_errors():
    capture = Capture()
    back = Ether(dst=FRONT, src=ROUTER)

    def from_router(vip_packet, kind, **ip):
        """A router's error about an answer of the VIP."""
        return back / IP(src="192.0.2.33", dst=VIP, ttl=60, **ip) / kind / vip_packet

    # A TCP connection of DR, whose answer was too big for a link; 8 bytes of L4 quoted, then more.
    address, port = client(1)
    capture.add(to_vip(1, TCP(sport=port, dport=80, flags="S", seq=1)))
    answer = raw(IP(src=VIP, dst=address, ttl=50, flags="DF") / TCP(sport=80, dport=port, seq=9) / (b"x" * 1_400))
    for length in (28, 40, 200):
        capture.add(from_router(answer[:length], ICMP(type=3, code=4, nexthopmtu=1_400)))
    capture.add(from_router(answer[:28], ICMP(type=11, code=0)))
    # UDP over FullNAT: the client's port is closed by now.
    capture.add(to_vip(2, UDP(sport=4_000, dport=53) / b"question"))
    answer = raw(IP(src=VIP, dst=client(2)[0], ttl=50) / UDP(sport=53, dport=4_000) / b"answer")
    unreachable = back / IP(src=client(2)[0], dst=VIP, ttl=60) / ICMP(type=3, code=3)
    capture.add(unreachable / answer)
    capture.add(unreachable / answer[:28])
    # The backend's is.
    backend = Ether(dst=BACK, src="02:00:00:00:01:15") / IP(src="10.0.0.21", dst=local(1)[0], ttl=64)
    question = raw(IP(src=local(1)[0], dst="10.0.0.21", ttl=63) / UDP(sport=local(1)[1], dport=53) / b"question")
    capture.add(backend / ICMP(type=3, code=3) / question)
    capture.add(backend / ICMP(type=3, code=3) / question[:28])
    # Over IPv6.
    client6, vip6, router6 = "2001:db8:c::7", "2001:db8::10", "2001:db8:9::1"
    capture.add(back / IPv6(src=client6, dst=vip6) / UDP(sport=4_000, dport=53) / b"question")
    answer = raw(IPv6(src=vip6, dst=client6, hlim=50) / UDP(sport=53, dport=4_000) / (b"x" * 1_400))
    for length in (48, 1_232):
        capture.add(back / IPv6(src=router6, dst=vip6) / ICMPv6PacketTooBig(mtu=1_400) / answer[:length])
    # Cut within the quote, a quote of what the VIP did not send, and of a later fragment: dropped.
    answer = raw(IP(src=VIP, dst=client(2)[0], ttl=50) / UDP(sport=53, dport=4_000) / b"answer")
    foreign = raw(IP(src="192.0.2.1", dst=client(2)[0]) / UDP(sport=53, dport=4_000) / b"answer")
    later = raw(IP(src=VIP, dst=client(2)[0], frag=100) / UDP(sport=53, dport=4_000) / b"answer")
    for quoted in (answer[:27], answer[:19], foreign, later, changed(answer, 0, 0x44)):
        capture.add(unreachable / quoted)
    # Of a flow that nobody knows, and no error: the kernel's, which is not there.
    unknown = raw(IP(src=VIP, dst="198.51.100.99") / UDP(sport=53, dport=4_000) / b"answer")
    capture.add(unreachable / unknown)
    capture.add(to_vip(1, ICMP() / b"ping"))
    capture.write("icmp-errors")


def changed(packet, at, *values):
    data = bytearray(raw(packet))
    data[at : at + len(values)] = bytes(values)
    return bytes(data)


def lying_lengths():
    capture = Capture()
    syn = to_vip(1, TCP(sport=4_000, dport=80, flags="S") / b"four")
    datagram = to_vip(1, UDP(sport=4_000, dport=53) / b"four")
    for cut in (0, 1, 13, 14, 20, 33, 34, 41, 53, 57):
        capture.add(raw(syn)[:cut])
    for cut in (35, 41, 42, 45):
        capture.add(raw(datagram)[:cut])
    for total in ((0, 0), (0, 19), (0, 20), (0, 39), (0, 45), (255, 255)):
        capture.add(changed(syn, 16, *total))
    for version_and_words in (0x05, 0x40, 0x44, 0x46, 0x4F, 0x65):
        capture.add(changed(syn, 14, version_and_words))
    for data_offset in (0x00, 0x40, 0x70, 0xF0):
        capture.add(changed(syn, 46, data_offset))
    for length in ((0, 0), (0, 7), (0, 13), (255, 255)):
        capture.add(changed(datagram, 38, *length))
    # Honest ones at last: padding is no lie.
    capture.add(raw(syn) + bytes(2))
    capture.add(raw(datagram) + bytes(14))
    capture.write("lying-lengths")


def garbage():
    generator = random.Random(42)
    capture = Capture()
    for length in range(0, 240, 3):
        capture.add(generator.randbytes(length))
        header = bytes.fromhex("020000000001" "020000000909" "0800" "45")
        capture.add(header + generator.randbytes(length))
    capture.add(Ether(dst=FRONT, src=ROUTER) / IPv6(dst="2001:db8::1") / TCP(dport=80))
    capture.add(Ether(dst=FRONT, src=ROUTER, type=0x8100) / (b"\x00\x05\x08\x00" + raw(IP(dst=VIP) / UDP(dport=53))))
    capture.add(to_vip(1, TCP(sport=4_000, dport=80, flags="S")))
    capture.write("garbage")


def mh():
    capture = Capture()
    for number in range(80):
        capture.add(to_vip(number, TCP(sport=client(number)[1], dport=80, flags="S")))
    for number in range(0, 80, 8):
        capture.add(to_vip(number, TCP(sport=client(number)[1], dport=80, flags="A") / b"same backend"))
    capture.write("mh")


def client6(number):
    """Endpoint of a client: every second one is of the same /64."""
    return f"2001:db8:c:{number % 2}::{1 + number:x}", 40_000 + number


def to_vip6(number, l4, vip="2001:db8::10", hlim=64, **ip):
    return Ether(dst=FRONT, src=ROUTER) / IPv6(src=client6(number)[0], dst=vip, hlim=hlim, **ip) / l4


def from_backend6(last, connection, l4):
    """An answer to FullNAT's local endpoint of the n-th connection, from 1: as `local`, of 2001:db8:1::40/126."""
    address = f"2001:db8:1::{0x40 + connection % 4:x}"
    return Ether(dst=BACK, src=f"02:00:00:00:06:{last}") / IPv6(src=f"2001:db8:1::{last}", dst=address) / l4


def ipv6():
    """Direct routing and FullNAT over IPv6; extension headers, what is not ours, what may not go on."""
    capture = Capture()
    for number in range(4):
        port = client6(number)[1]
        capture.add(to_vip6(number, TCP(sport=port, dport=80, flags="S", seq=1)))
        capture.add(to_vip6(number, TCP(sport=port, dport=80, flags="PA", seq=2, ack=1) / (b"x" * number * 41)))
        capture.add(to_vip6(number, UDP(sport=port, dport=53) / (b"q" * number)))
    for number in range(3):
        port, connection = client6(number)[1], number + 1
        back = lambda l4: capture.add(from_backend6("2" + str(1 + number % 2), connection, l4))
        local_port = 1024 + connection // 4
        capture.add(to_vip6(number, TCP(sport=port, dport=8080, flags="S", seq=1)))
        back(TCP(sport=9000, dport=local_port, flags="SA", seq=7, ack=2))
        capture.add(to_vip6(number, TCP(sport=port, dport=8080, flags="PA", seq=2, ack=8) / (b"r" * (7 + number))))
        back(TCP(sport=9000, dport=local_port, flags="PA", seq=8, ack=9 + number) / bytes(range(200 + number)))
    for number in range(4, 6):
        capture.add(to_vip6(number, UDP(sport=client6(number)[1], dport=5353) / (b"q" * (2 * number + 1))))
        answer = UDP(sport=9000, dport=1024 + number // 4) / (b"a" * (30 + number))
        capture.add(from_backend6("2" + str(1 + (number + 1) % 2), number, answer))
    # Behind extension headers, in each mode.
    for dport in (80, 8080):
        options = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
        capture.add(to_vip6(9, options / TCP(sport=client6(9)[1], dport=dport, flags="S", seq=1)))
    # Any port of a network of VIPs, and one of its addresses that has a service of its own.
    capture.add(to_vip6(7, TCP(sport=7, dport=4_000, flags="S"), vip="2001:db8:2::77"))
    capture.add(to_vip6(7, TCP(sport=7, dport=4_000, flags="S"), vip="2001:db8:2::10"))
    capture.add(to_vip6(7, TCP(sport=7, dport=443, flags="S"), vip="2001:db8:2::10"))
    # The kernel's: no service, no VIP, neighbour discovery.
    capture.add(to_vip6(8, TCP(sport=7, dport=81, flags="S")))
    capture.add(to_vip6(8, TCP(sport=7, dport=80, flags="S"), vip="2001:db8::11"))
    capture.add(to_vip6(8, ICMPv6ND_NS(tgt="2001:db8::10"), hlim=255))
    # Of these none goes on.
    capture.add(to_vip6(0, TCP(sport=client6(0)[1], dport=80, flags="A", seq=2, ack=1), hlim=1))
    syn = to_vip6(1, TCP(sport=4_000, dport=80, flags="S") / b"four")
    for cut in (14, 53, 54, 73):
        capture.add(raw(syn)[:cut])
    capture.add(changed(syn, 14, 0x45))
    capture.add(changed(syn, 18, 255, 255))
    capture.write("ipv6")


def matching():
    """The most specific service gets the connection: each has a backend of its own."""
    capture = Capture()
    number = 0
    for vip in ("203.0.113.10", "203.0.113.11", "203.0.113.31", "203.0.113.32", "198.51.100.10"):
        for dport in (0, 79, 80, 81, 7_999, 8_000, 8_049, 8_050, 8_060, 8_061, 8_100, 8_101, 65_535):
            syn = to_vip(number, TCP(sport=client(number)[1], dport=dport, flags="S"))
            syn[IP].dst = vip
            capture.add(syn)
            number += 1
    # FullNAT to a backend without a port keeps the port that the client chose.
    for dport in (5_000, 5_001, 5_999, 6_000):
        datagram = to_vip(number, UDP(sport=client(number)[1], dport=dport) / b"which port")
        capture.add(datagram)
        number += 1
    capture.write("matching")


def nat():
    """Masquerading, both ways, and connections of hosts behind the director."""
    capture = Capture()
    back = lambda last, to, l4: capture.add(
        Ether(dst=BACK, src=f"02:00:00:00:01:{last:02x}") / IP(src=f"10.0.0.{last}", dst=to, ttl=64) / l4
    )
    for number in range(4):
        address, port = client(number)
        last = 11 + number % 2
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="S", seq=1)))
        back(last, address, TCP(sport=8080, dport=port, flags="SA", seq=7, ack=2))
        capture.add(to_vip(number, TCP(sport=port, dport=80, flags="PA", seq=2, ack=8) / (b"r" * (5 + number))))
        back(last, address, TCP(sport=8080, dport=port, flags="PA", seq=8, ack=7 + number) / bytes(range(90 + number)))
        capture.add(to_vip(number, UDP(sport=port, dport=53) / (b"q" * (1 + number))))
        back(last, address, UDP(sport=53, dport=port) / (b"a" * (20 + number)))
    # Outbound: of two routers each takes every second connection.
    for number in range(4):
        back(11, "198.51.100.9", TCP(sport=50_000 + number, dport=443, flags="S", seq=1))
        answer = TCP(sport=443, dport=local(number + 1)[1], flags="SA", seq=7, ack=2)
        router = "02:00:00:00:09:%02x" % (1 + number % 2)
        capture.add(Ether(dst=FRONT, src=router) / IP(src="198.51.100.9", dst=local(number + 1)[0], ttl=60) / answer)
        back(11, "198.51.100.9", TCP(sport=50_000 + number, dport=443, flags="PA", seq=2, ack=8) / b"hello")
    # To a group, to another host behind the director, and from a host that nobody named: the kernel's.
    back(11, "224.0.0.5", UDP(sport=9, dport=9) / b"group")
    back(11, "10.0.0.12", UDP(sport=9, dport=9) / b"neighbour")
    back(99, "198.51.100.9", TCP(sport=9, dport=443, flags="S"))
    capture.write("nat")


def echo():
    """Pings in every mode and both families, errors about them, fragments of them; and what no service takes."""
    capture = Capture()
    front = lambda ip, l4: capture.add(Ether(dst=FRONT, src=ROUTER) / ip / l4)
    back = lambda last, ip, l4: capture.add(Ether(dst=BACK, src=f"02:00:00:00:01:{last:02x}") / ip / l4)
    ask = lambda number, vip, seq=1, size=56: front(
        IP(src=client(number)[0], dst=vip, ttl=64), ICMP(type=8, id=number, seq=seq) / bytes(range(size))
    )
    ask6 = lambda number, vip, seq=1, size=56: front(
        IPv6(src=client6(number)[0], dst=vip, hlim=64), ICMPv6EchoRequest(id=number, seq=seq, data=bytes(range(size)))
    )
    answer = lambda seq, **ends: ICMP(type=0, seq=seq, **ends) / bytes(range(56))
    answer6 = lambda seq, **ends: ICMPv6EchoReply(seq=seq, data=bytes(range(56)), **ends)
    # Direct routing: three flows, two requests each, over two backends; a tunnel likewise, of the other family.
    for seq in (1, 2):
        for number in range(1, 4):
            ask(number, VIP, seq)
            ask6(number, "2001:db8::11", seq, 20 + number)
    # Masquerading; the second VIP has the same backend, which knows the client's identifier from the first.
    for vip in ("203.0.113.13", "203.0.113.14"):
        ask(1, vip)
    for number in (1, 2):
        back(31, IP(src="10.0.0.31", dst=client(1)[0], ttl=64), answer(1, id=number))
    # FullNAT: the first two connections to IPv4 backends, of one identifier; then IPv6 to IPv4, and IPv4 to IPv6.
    for number in (1, 1 + 200):
        front(IP(src=client(number)[0], dst="203.0.113.11"), ICMP(type=8, id=1, seq=number) / bytes(range(number)))
    front(IP(src="198.51.100.250", dst="203.0.113.11"), ICMP(type=8, id=1, seq=7) / bytes(range(33)))
    for connection, seq in ((1, 1), (2, 7)):
        local_address, identifier = local(connection)
        back(21, IP(src="10.0.0.21", dst=local_address, ttl=64), answer(seq, id=identifier))
    ask6(4, "2001:db8::10")
    local_address, identifier = local(3)
    back(21, IP(src="10.0.0.21", dst=local_address, ttl=64), answer(1, id=identifier))
    ask(5, "203.0.113.12")
    back(21, IPv6(src="2001:db8:b::21", dst="2001:db8:b::41"), answer6(1, id=1024))
    # A router cannot send what goes to a backend, and quotes it: one of each family's.
    quoted = IP(src=local(1)[0], dst="10.0.0.21", ttl=60) / ICMP(type=8, id=local(1)[1], seq=1) / bytes(range(1))
    back(21, IP(src="10.0.0.254", dst=local(1)[0]), ICMP(type=3, code=1) / quoted)
    quoted = IP(src=local(3)[0], dst="10.0.0.21", ttl=60) / ICMP(type=8, id=local(3)[1], seq=1) / bytes(range(56))
    back(21, IP(src="10.0.0.254", dst=local(3)[0]), ICMP(type=3, code=4, nexthopmtu=1400) / quoted)
    quoted = IPv6(src="2001:db8:b::41", dst="2001:db8:b::21") / ICMPv6EchoRequest(id=1024, seq=1, data=bytes(range(56)))
    back(21, IPv6(src="2001:db8:b::fe", dst="2001:db8:b::41"), ICMPv6PacketTooBig(mtu=1400) / quoted)
    # A host behind the director pings the world, twice under one identifier.
    for last in (41, 42):
        back(last, IP(src=f"10.0.0.{last}", dst="198.51.100.9", ttl=64), ICMP(type=8, id=5, seq=1) / bytes(range(56)))
    for number, identifier in ((1, 1024), (2, 1024)):
        front(IP(src="198.51.100.9", dst=f"192.0.2.{64 + number}", ttl=60), answer(1, id=identifier))
    # A long one in fragments, the last one first.
    whole = IP(src=client(9)[0], dst="203.0.113.11", id=77) / ICMP(type=8, id=9, seq=1) / (b"abcdefg" * 500)
    for piece in reversed(fragment(Ether(dst=FRONT, src=ROUTER) / whole, fragsize=1_480)):
        capture.add(piece)
    # Nobody is there; then what no service takes: another VIP's, an answer nobody asked for, a timestamp.
    ask(6, "203.0.113.15")
    ask6(6, "2001:db8::15")
    ask(7, "203.0.113.16")
    front(IP(src=client(7)[0], dst=VIP), answer(1, id=7))
    front(IP(src=client(7)[0], dst=VIP), ICMP(type=13, id=7))
    # A flow is remembered for 60 s.
    capture.add(Ether(dst=FRONT, src=ROUTER) / IP(src=client(8)[0], dst=VIP) / ICMP(type=8, id=8), after_ms=70_000)
    capture.write("echo")


def tunnel():
    """Flows of both families in every encapsulation, twice each; then what comes in tunnels itself."""
    capture = Capture()
    for number in range(8):
        port = client(number)[1]
        for dport in (80, 81):
            for flags in ("S", "A"):
                capture.add(to_vip(number, TCP(sport=port, dport=dport, flags=flags), tos=0xB9))
                capture.add(to_vip6(number, TCP(sport=client6(number)[1], dport=dport, flags=flags), tc=0xB9))
        for none in ({}, {"chksum": 0}):
            capture.add(to_vip(number, UDP(sport=port, dport=53, **none) / (b"q" * number)))
        capture.add(to_vip6(number, UDP(sport=client6(number)[1], dport=53) / (b"q" * number)))
    outer = IP(src="198.51.100.1", dst="192.0.2.5"), IPv6(src="2001:db8:9::1", dst="2001:db8::5")
    carriers = (lambda ip: ip, lambda ip: ip / GRE(), lambda ip: ip / UDP(sport=9, dport=6080, chksum=0))
    inner = to_vip(20, TCP(sport=1, dport=80, flags="S"))[IP], to_vip6(20, TCP(sport=1, dport=80, flags="S"))[IPv6]
    for ip in outer:
        for carrier in carriers:
            for packet in inner:
                capture.add(Ether(dst=FRONT, src=ROUTER) / carrier(ip.copy()) / packet)
    # Of these none is unwrapped: a tunnel in a tunnel, a fragment of one, another's, no packet, congestion that is not known.
    capture.add(Ether(dst=FRONT, src=ROUTER) / outer[0] / outer[0] / inner[0])
    capture.add(Ether(dst=FRONT, src=ROUTER) / IP(src="198.51.100.1", dst="192.0.2.5", flags="MF") / inner[0])
    capture.add(Ether(dst=FRONT, src=ROUTER) / IP(src="198.51.100.1", dst="192.0.2.6") / inner[0])
    capture.add(Ether(dst=FRONT, src=ROUTER) / IP(src="198.51.100.1", dst="192.0.2.5", proto=4) / b"what is this")
    capture.add(Ether(dst=FRONT, src=ROUTER) / IP(src="198.51.100.1", dst="192.0.2.5", tos=3) / inner[0])
    capture.write("tunnel")


def tunnel_errors():
    """A segment in each tunnel that the network is too narrow for, and what routers say of it."""
    capture = Capture()
    v4, v6 = {"src": "192.0.2.5", "dst": "10.0.0.11", "flags": "DF"}, {"src": "2001:db8::5", "dst": "2001:db8:1::11"}
    tunnels = {
        80: lambda inner: IP(**v4) / inner,
        81: lambda inner: IPv6(**v6) / inner,
        82: lambda inner: IP(**v4 | {"src": "172.16.1.2"}) / GRE(key_present=1, key=77) / inner,
        83: lambda inner: IPv6(**v6) / UDP(sport=9, dport=6081, chksum=1) / bytes([0, 4 if IP in inner else 41, 0, 0]) / inner,
    }
    for dport, outer in tunnels.items():
        inners = [
            to_vip(1, TCP(sport=client(1)[1], dport=dport, flags="S", seq=1), flags="DF")[IP],
            to_vip6(1, TCP(sport=client6(1)[1], dport=dport, flags="S", seq=1))[IPv6],
        ]
        for inner in inners:
            capture.add(Ether(dst=FRONT, src=ROUTER) / inner)
            hops = "ttl" if IP in inner else "hlim"
            setattr(inner, hops, 63)
            sent = raw(outer(inner / (b"x" * 1_400)))
            report(capture, sent)
    capture.write("tunnel-errors")


def report(capture, sent):
    """What routers say of a packet: first what clients are told, then what they are not."""
    is_v6, address = sent[0] >> 4 == 6, sent[12:16]
    back = Ether(dst=FRONT, src=ROUTER)
    if is_v6:
        back = back / IPv6(src="2001:db8:9::1", dst="2001:db8::5")
        messages = [ICMPv6PacketTooBig(mtu=1_400), ICMPv6DestUnreach(code=0), ICMPv6TimeExceeded(code=0)]
        more = [ICMPv6PacketTooBig(mtu=9), ICMPv6ParamProblem()]
    else:
        back = back / IP(src="10.0.0.1", dst=".".join(map(str, address)))
        messages = [ICMP(type=3, code=4, nexthopmtu=1_400), ICMP(type=3, code=1), ICMP(type=11, code=0)]
        more = [ICMP(type=3, code=4, nexthopmtu=0), ICMP(type=12)]
    for message in messages + more:
        capture.add(back / message / sent[: 1_232 if is_v6 else 548])
    # Eight bytes behind the outer header, and another destination: the second is the kernel's, which is not there.
    capture.add(back / messages[0] / sent[: 48 if is_v6 else 28])
    capture.add(back / messages[0] / changed(sent, 39 if is_v6 else 19, 99)[:548])


def policy():
    """Each service of the rules in their order."""
    capture = Capture()
    syn = lambda number, dport, after_ms=1: capture.add(
        to_vip(number, TCP(sport=client(number)[1], dport=dport, flags="S", seq=1)), after_ms
    )
    # All clients of to_vip are of one /24, and so one client of the first service; another network is another.
    for number, dport in ((0, 80), (1, 443), (2, 80)):
        syn(number, dport)
    other = to_vip(3, TCP(sport=client(3)[1], dport=443, flags="S", seq=1))
    other[IP].src = "192.0.2.200"
    capture.add(other)
    for dport in (81, 82, 83):
        syn(0, dport)
    for number in range(3):
        for dport in (84, 85, 86):
            syn(number, dport)
    for number in range(4):
        capture.add(to_vip(0, UDP(sport=client(0)[1], dport=87) / (b"q" * number)))
    for flags in ("S", "A", "FA"):
        capture.add(to_vip(0, TCP(sport=client(0)[1], dport=88, flags=flags, seq=1)))
    for dport in (89, 90):
        capture.add(to_vip(0, TCP(sport=client(0)[1], dport=dport, flags="A", seq=1)))
    for after_ms in (1, 1_500, 8_000):
        capture.add(to_vip(0, UDP(sport=client(0)[1], dport=91) / b"q"), after_ms)
    # Nothing half-open is left after 64 s, and no client is remembered a minute after that: round robin goes on
    # where it was, and the other network gets the backend that it did not have.
    capture.add(other, 140_000)
    for dport in (84, 85, 86):
        syn(5, dport)
    capture.write("policy")


def schedulers():
    """Twelve clients of each service; of every third the connection ends before the next one comes."""
    capture = Capture()
    for dport in range(80, 98):
        for number in range(12):
            for flags in ("S", "A", "FA") if number % 3 == 0 else ("S", "A"):
                capture.add(to_vip(number, TCP(sport=client(number)[1], dport=dport, flags=flags)))
    capture.write("schedulers")


def from_backend_of_family(is_v6, connection, l4):
    """An answer to the n-th connection to a backend of that family, from 1."""
    if is_v6:
        address = f"2001:db8:1::{0x40 + connection % 4:x}"
        return Ether(dst=BACK, src="02:00:00:00:06:21") / IPv6(src="2001:db8:1::21", dst=address, hlim=64) / l4
    return from_backend("10.0.0.21", connection, l4)


def translation():
    """NAT64 and NAT46, TCP and UDP, and errors about both; then what may not be translated."""
    capture = Capture()
    for is_v6 in (True, False):
        ask = (lambda number, l4, **ip: to_vip6(number, l4, **ip)) if is_v6 else to_vip
        answer = lambda connection, l4: from_backend_of_family(not is_v6, connection, l4)
        for number in range(4):
            port, connection = (client6 if is_v6 else client)(number)[1], number + 1
            local_port = 1024 + connection // 4
            capture.add(ask(number, TCP(sport=port, dport=80, flags="S", seq=1, options=[("MSS", 1460)])))
            capture.add(answer(connection, TCP(sport=8080, dport=local_port, flags="SA", seq=7, ack=2, options=[("MSS", 1460)])))
            capture.add(ask(number, TCP(sport=port, dport=80, flags="PA", seq=2, ack=8) / (b"r" * (5 + number))))
            capture.add(answer(connection, TCP(sport=8080, dport=local_port, flags="PA", seq=8, ack=7 + number) / bytes(1_300)))
        for number in range(4):
            # Local endpoints are counted on, whatever the protocol.
            port, connection = (client6 if is_v6 else client)(number)[1], number + 5
            local_port = 1024 + connection // 4
            capture.add(ask(number, UDP(sport=port, dport=53) / (b"q" * number)))
            capture.add(answer(connection, UDP(sport=5300, dport=local_port) / (b"a" * (20 + number))))
        # Over IPv4 one may have no checksum, over IPv6 none may.
        port = (client6 if is_v6 else client)(0)[1]
        capture.add(ask(0, UDP(sport=port, dport=53, chksum=0) / b"none"))
        capture.add(answer(5, UDP(sport=5300, dport=1025, chksum=0) / b"none"))
        # A router before the backend, in the backend's family; one before the client, in the client's.
        if is_v6:
            quoted = raw(IP(src=local(5)[0], dst="10.0.0.21", ttl=60) / UDP(sport=1025, dport=5300) / (b"q" * 40))
            router = Ether(dst=BACK, src="02:00:00:00:01:15") / IP(src="10.0.0.254", dst=local(5)[0], ttl=60)
            errors = [ICMP(type=3, code=4, nexthopmtu=1_400), ICMP(type=3, code=3), ICMP(type=11), ICMP(type=3, code=0)]
            header_len = 20
        else:
            quoted = raw(IPv6(src="2001:db8:1::41", dst="2001:db8:1::21") / UDP(sport=1025, dport=5300) / (b"q" * 40))
            router = Ether(dst=BACK, src="02:00:00:00:06:21") / IPv6(src="2001:db8:1::fe", dst="2001:db8:1::41", hlim=60)
            errors = [ICMPv6PacketTooBig(mtu=1_400), ICMPv6DestUnreach(code=4), ICMPv6TimeExceeded(), ICMPv6DestUnreach(code=1)]
            header_len = 40
        for error in errors:
            for length in (8, 30):
                capture.add(router / error / quoted[: header_len + length])
        bad = raw(router / errors[0] / quoted)
        capture.add(changed(bad, len(bad) - 1, bad[-1] ^ 1))
    # On a way of its own; a header that a bit fell over in; the last hop; a fragment.
    port = client(0)[1]
    capture.add(to_vip(0, UDP(sport=port, dport=53) / b"routed", options=[IPOption(b"\x83\x07\x04\xc0\x00\x02\x09\x00")]))
    capture.add(to_vip6(0, IPv6ExtHdrRouting(segleft=1, addresses=["2001:db8::99"]) / UDP(sport=client6(0)[1], dport=53) / b"routed"))
    capture.add(changed(to_vip(0, UDP(sport=port, dport=53) / b"fallen over"), 18, 0x55))
    low = to_vip(0, UDP(sport=port, dport=53) / b"low")
    low[IP].ttl = 1
    capture.add(low)
    for piece in fragment(to_vip(0, UDP(sport=port, dport=53) / (b"f" * 900), id=7), fragsize=600):
        capture.add(piece)
    capture.write("translation")


def client_address():
    """A connection with each way to tell who the client is, and one over IPv6: there and back until both have spoken."""
    capture = Capture()
    options = [("MSS", 1460)]
    lengths = {80: len("PROXY TCP4 198.51.100.1 203.0.113.10 40000 80\r\n"), 81: 28, 82: 0}
    for number, (dport, length) in enumerate(lengths.items()):
        address, port = client(0)
        connection = number + 1
        ask = lambda flags, seq, ack, data=b"", **more: capture.add(
            to_vip(0, TCP(sport=port, dport=dport, flags=flags, seq=seq, ack=ack, **more) / data)
        )
        answer = lambda flags, seq, ack, data=b"", **more: capture.add(
            from_backend("10.0.0.21", connection, TCP(sport=8080, dport=local(connection)[1], flags=flags, seq=seq, ack=ack, **more) / data)
        )
        ask("S", 1, 0, options=options)
        answer("SA", 7, 2, options=options)
        ask("A", 2, 8)
        ask("PA", 2, 8, b"GET /")
        ask("PA", 2, 8, b"GET /")
        answer("A", 8, 2 + length + 5)
        answer("PA", 8, 2 + length + 5, b"HTTP/1.1 200 OK")
        ask("PA", 7, 23, b"GET /more" + bytes(99))
        answer("FA", 23, 2 + length + 113)
        ask("FA", 115, 24)
    # Of IPv6, version 2: 52 bytes.
    port = client6(0)[1]
    ask6 = lambda flags, seq, ack, data=b"": capture.add(to_vip6(0, TCP(sport=port, dport=81, flags=flags, seq=seq, ack=ack) / data))
    back6 = lambda flags, seq, ack, data=b"": capture.add(
        from_backend_of_family(True, 1, TCP(sport=8080, dport=1024, flags=flags, seq=seq, ack=ack) / data)
    )
    ask6("S", 1, 0)
    back6("SA", 7, 2)
    ask6("PA", 2, 8, b"odd")
    back6("PA", 8, 2 + 52 + 3, b"answer")
    ask6("A", 5, 14)
    # Datagrams, with and without a checksum, until the first answer.
    for none in ({}, {"chksum": 0}, {}):
        capture.add(to_vip(0, UDP(sport=client(0)[1], dport=53, **none) / b"who am I"))
    capture.add(from_backend("10.0.0.21", 4, UDP(sport=5300, dport=local(4)[1]) / b"you"))
    capture.add(to_vip(0, UDP(sport=client(0)[1], dport=53) / b"I see"))
    # An IPv6 client of an IPv4 backend: the header says who it is in its own family, and the SYN-ACK's size has room for both headers.
    ask6 = lambda flags, seq, ack, data=b"", **more: capture.add(
        to_vip6(1, TCP(sport=client6(1)[1], dport=82, flags=flags, seq=seq, ack=ack, **more) / data)
    )
    answer = lambda flags, seq, ack, data=b"", **more: capture.add(
        from_backend("10.0.0.21", 5, TCP(sport=8080, dport=local(5)[1], flags=flags, seq=seq, ack=ack, **more) / data)
    )
    ask6("S", 1, 0, options=options)
    answer("SA", 7, 2, options=options)
    ask6("PA", 2, 8, b"GET /")
    answer("PA", 8, 2 + 52 + 5, b"HTTP/1.1 200 OK")
    ask6("FA", 7, 23)
    capture.write("client-address")


def mtu():
    """Packets that do not fit: cut, told about, or dropped, by the rules and the packets."""
    capture = Capture()
    for dport in (53, 54, 55):
        for flags in ("DF", 0):
            for size in (1_200, 1_471):
                datagram = UDP(sport=client(1)[1], dport=dport) / bytes(number % 251 for number in range(size))
                capture.add(to_vip(1, datagram, flags=flags, id=99))
        for size in (1_200, 1_300, 1_440):
            capture.add(to_vip6(1, UDP(sport=client6(1)[1], dport=dport) / bytes(number % 251 for number in range(size))))
    # A fragment that has to be cut again, and options of which the later parts have those that are copied.
    for piece in fragment(to_vip(2, UDP(sport=9, dport=53) / (b"f" * 2_500), id=7), fragsize=1_400):
        capture.add(piece)
    options = [IPOption(b"\x94\x04\x00\x00"), IPOption(b"\x07\x07\x04\x00\x00\x00\x00"), IPOption(b"\x00")]
    capture.add(to_vip(3, UDP(sport=9, dport=53) / (b"o" * 1_400), options=options, id=8))
    capture.write("mtu")


def sctp():
    """Associations of FullNAT and direct routing over both families: CRC32c moves with the l4_ports."""
    capture = Capture()
    for number in range(2):
        for dport in (80, 81):
            init = SCTPChunkInit(init_tag=7 + number, a_rwnd=65_535, n_out_streams=1, n_in_streams=1, init_tsn=1)
            data = SCTPChunkData(data=bytes(range(20 + number)), tsn=1)
            for chunk in (init, data):
                capture.add(to_vip(number, SCTP(sport=client(number)[1], dport=dport, tag=9) / chunk))
                capture.add(to_vip6(number, SCTP(sport=client6(number)[1], dport=dport, tag=9) / chunk))
        answer = SCTP(sport=9000, dport=1024, tag=7 + number) / SCTPChunkData(data=b"answer", tsn=1)
        capture.add(from_backend("10.0.0.21", number + 1, answer))
        capture.add(from_backend_of_family(True, number + 1, answer))
    capture.write("sctp")


def tunnel_variants():
    """GRE without a key and GUE with its own header, over both families, around both: what `tunnel` has not."""
    capture = Capture()
    for number in range(4):
        for none in ({}, {"chksum": 0}):
            for dport in (53, 54, 55):
                capture.add(to_vip(number, UDP(sport=client(number)[1], dport=dport, **none) / (b"q" * number)))
        for dport in (53, 54, 55):
            capture.add(to_vip6(number, UDP(sport=client6(number)[1], dport=dport) / (b"q" * number)))
    capture.write("tunnel-variants")


def mss():
    """SYNs of each mode, clamped to a way of 1,400 bytes, and to a number; options in front make the place odd."""
    capture = Capture()
    size = [("NOP", None), ("MSS", 1460), ("WScale", 7), ("SAckOK", b"")]
    for number, dport in enumerate((80, 81, 82, 83)):
        capture.add(to_vip(number, TCP(sport=client(number)[1], dport=dport, flags="S", seq=1, options=size)))
        capture.add(to_vip6(number, TCP(sport=client6(number)[1], dport=dport, flags="S", seq=1, options=size)))
    answer = TCP(sport=8080, dport=1024, flags="SA", seq=7, ack=2, options=size)
    capture.add(from_backend("10.0.0.21", 1, answer))
    capture.add(from_backend_of_family(True, 1, answer))
    capture.write("mss")


def server_ids():
    """Packets that say which backend they are for: a TCP option, a number in a datagram; and some that name nobody."""
    capture = Capture()
    for number in range(3):
        option = [(0xB7, (0x31441A + number).to_bytes(4, "little"))]
        for flags in ("S", "PA"):
            segment = TCP(sport=client(number)[1], dport=80, flags=flags, seq=2, ack=8, options=option)
            capture.add(to_vip(number, segment / (b"x" * number)))
        for server in (1, 2, 77):
            datagram = UDP(sport=client(number)[1], dport=53) / (b"\0" + server.to_bytes(3, "big") + b"payload")
            capture.add(to_vip(number, datagram))
    capture.write("server-ids")


if __name__ == "__main__":
    for case in (dr_tcp, echo, fullnat_tcp, udp, fragments, icmp_errors, lying_lengths, garbage, mh, nat, ipv6, matching, policy, schedulers, tunnel, tunnel_errors,
                 translation, client_address, mtu, sctp, tunnel_variants, mss, server_ids):
        case()
