#!/usr/bin/env python3
"""Writes in.pcap of every golden case beside its rules.toml. Needs scapy (apt-get install python3-scapy).

Run it after changing a case, then look at what changed: CROSSDOCK_GOLDEN=rewrite cargo test -p control --test golden
"""

import random
from pathlib import Path

from scapy.all import ARP, ICMP, IP, TCP, UDP, Ether, IPOption, IPv6, RawPcapWriter, fragment, raw

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
    capture.write("fragments")


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


if __name__ == "__main__":
    for case in (dr_tcp, fullnat_tcp, udp, fragments, lying_lengths, garbage, mh):
        case()
