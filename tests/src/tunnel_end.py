"""The backend's end of a tunnel, and the judge of what comes out of it.

    tunnel_end.py INTERFACE KIND VIP...     KIND: ipip, gre, gre:KEY, gue0:PORT, gue1:PORT, glb:PORT

A backend would use `ip link add ... type ipip`, `gre` or `fou`; not every kernel that runs the tests has these devices. So
packets are taken off a packet socket, every header is held to what its RFC says, and what was inside goes to a TUN device:
the kernel that owns the VIP sees it arrive there, and answers the client by its own routes. nftables keeps the outer packets
from the same kernel, which would say "protocol unreachable".

An end of kind `glb` does what GLB's do: a segment whose connection its kernel does not know goes on to the second backend,
which the GUE header names.

It knows nothing of Crossdock: written from RFC 791, 8200, 2003, 2473, 2784, 2890, draft-ietf-intarea-gue-09 and glb-director's
docs/development/gue-header.md. At SIGTERM it
writes what it saw as a line of JSON; anything wrong in a header is one of its `faults`, and what is at fault goes no further.
"""

import collections
import fcntl
import ipaddress
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys

ETH_P = {0x0800: 4, 0x86DD: 6}
# Protocol numbers of IPv4, IPv6, GRE, UDP as payload.
INNER = {4: 4, 41: 6}
GRE, UDP = 47, 17
ICMP_OF = {4: 1, 6: 58}


class Fault(Exception):
    """What is wrong with a packet."""


def need(holds, fault):
    if not holds:
        raise Fault(fault)


def checksum_holds(data):
    """RFC 1071: the words, the checksum among them, add up to zero, which has two forms. 2^16 = 1 modulo 2^16 - 1."""
    return int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF == 0


Header = collections.namedtuple("Header", "version source destination protocol ttl dscp payload fragment")
# `offset` in bytes; None stands for a whole packet.
Fragment = collections.namedtuple("Fragment", "identification offset more")


def ip(packet, where):
    """The header of an IP packet that must fill `packet` exactly."""
    need(packet, f"{where}: empty")
    return {4: ipv4, 6: ipv6}.get(packet[0] >> 4, not_ip)(packet, where)


def not_ip(packet, where):
    raise Fault(f"{where}: version {packet[0] >> 4}")


def ipv4(packet, where):
    need(len(packet) >= 20, f"{where}: {len(packet)} bytes are no IPv4 header")
    _, tos, length, identification, place, ttl, protocol = struct.unpack_from("!BBHHHBB", packet)
    size = (packet[0] & 15) * 4
    need(20 <= size <= length, f"{where}: header of {size} bytes, length {length}")
    need(length == len(packet), f"{where}: says {length} bytes, has {len(packet)}")
    need(checksum_holds(packet[:size]), f"{where}: IPv4 header checksum")
    need(ttl > 0, f"{where}: TTL 0")
    fragment = Fragment(identification, (place & 0x1FFF) * 8, place & 0x2000 != 0) if place & 0x3FFF else None
    need(fragment is None or place & 0x4000 == 0, f"{where}: a fragment that may not be one")
    return Header(4, packet[12:16], packet[16:20], protocol, ttl, tos >> 2, packet[size:], fragment)


def ipv6(packet, where):
    need(len(packet) >= 40, f"{where}: {len(packet)} bytes are no IPv6 header")
    first, length, protocol, ttl = struct.unpack_from("!IHBB", packet)
    need(length + 40 == len(packet), f"{where}: says {length} + 40 bytes, has {len(packet)}")
    need(ttl > 0, f"{where}: hop limit 0")
    header = Header(6, packet[8:24], packet[24:40], protocol, ttl, first >> 22 & 63, packet[40:], None)
    if protocol != 44:
        return header
    need(len(packet) >= 48, f"{where}: no room for a fragment header")
    protocol, _, place, identification = struct.unpack_from("!BBHI", packet, 40)
    fragment = Fragment(identification, place & 0xFFF8, place & 1 != 0)
    return header._replace(protocol=protocol, payload=packet[48:], fragment=fragment)


def pseudo_header(header):
    return header.source + header.destination + struct.pack("!II", len(header.payload), header.protocol)


def l4_checksum_holds(header):
    """Of a whole packet. A fragment's payload is a part of what was summed."""
    payload, protocol = header.payload, header.protocol
    if header.fragment or protocol not in (6, 17, 1, 58):
        return True
    if protocol == UDP and header.version == 4 and payload[6:8] == b"\0\0":
        return True
    return checksum_holds(payload if protocol == ICMP_OF[4] else pseudo_header(header) + payload)


class Tunnel:
    """One kind of encapsulation."""

    def __init__(self, kind):
        self.name, _, number = kind.partition(":")
        self.number = int(number) if number else None
        self.source_ports = set()
        self.next_hop = None

    def is_ours(self, header):
        if self.name == "ipip":
            return header.protocol in INNER
        if self.name == "gre":
            return header.protocol == GRE
        return header.protocol == UDP and header.payload[2:4] == struct.pack("!H", self.number)

    def inner(self, outer):
        """The inner packet and the IP version its encapsulation says it has."""
        if self.name == "ipip":
            return outer.payload, INNER[outer.protocol]
        return self.of_gre(outer.payload) if self.name == "gre" else self.of_gue(outer)

    def of_gre(self, payload):
        wanted = b"\0\0" if self.number is None else b"\x20\0"
        need(payload[:2] == wanted, f"GRE: flags {payload[:2].hex()}, not {wanted.hex()}")
        (ether_type,) = struct.unpack_from("!H", payload, 2)
        need(ether_type in ETH_P, f"GRE: protocol type {ether_type:04x}")
        if self.number is None:
            return payload[4:], ETH_P[ether_type]
        (key,) = struct.unpack_from("!I", payload, 4)
        need(key == self.number, f"GRE: key {key}")
        return payload[8:], ETH_P[ether_type]

    def of_gue(self, outer):
        source_port, _, length, checksum = struct.unpack_from("!4H", outer.payload)
        need(length == len(outer.payload), f"UDP: says {length} bytes, has {len(outer.payload)}")
        need(source_port > 0, "UDP: source port 0")
        if checksum:
            need(checksum_holds(pseudo_header(outer) + outer.payload), "UDP: checksum")
        self.source_ports.add(source_port)
        payload = outer.payload[8:]
        if self.name == "gue1":
            # The first two bits of an IP version are a GUE version of 1: the packet itself, nothing between.
            need(payload and payload[0] >> 6 == 1, "GUE: variant 0")
            return payload, payload[0] >> 4
        need(len(payload) >= 4, "GUE: no header")
        need(payload[0] & 0xE0 == 0, f"GUE: variant and C bit {payload[0] >> 5}, not 0")
        words = 2 if self.name == "glb" else 0
        need(payload[0] & 0x1F == words and payload[2:4] == b"\0\0", f"GUE: extensions in {payload[:4].hex()}")
        need(payload[1] in INNER, f"GUE: protocol {payload[1]}")
        if words:
            self.next_hop = self.hop(payload[4:12])
        return payload[4 + 4 * words :], INNER[payload[1]]

    def hop(self, private):
        """The backend to ask next, if there is one."""
        kind, index, count, address = struct.unpack("!HBB4s", private)
        need(kind == 0 and index <= count <= 1, f"GLB: type {kind}, hop {index} of {count}")
        need(count == 1 or address == bytes(4), "GLB: an address without a hop")
        return address if index < count else None


class Reassembly:
    """Outer packets that were cut. What overlaps is a fault; what stays incomplete is nothing."""

    def __init__(self):
        self.parts = collections.defaultdict(dict)

    def whole(self, header):
        """The packet that `header` is the last missing fragment of."""
        if header.fragment is None:
            return header
        identification, offset, more = header.fragment
        key = (header.source, header.destination, header.protocol, identification)
        parts = self.parts[key]
        need(not more or len(header.payload) % 8 == 0, "outer: a fragment of an odd size")
        need(offset not in parts, "outer: a fragment twice")
        parts[offset] = (header.payload, more)
        payload = b""
        more = True
        for offset, (part, more) in sorted(parts.items()):
            need(offset >= len(payload), "outer: fragments overlap")
            if offset > len(payload):
                return None
            payload += part
        if more:
            return None
        del self.parts[key]
        return header._replace(payload=payload, fragment=None)


def is_known(inner):
    """Whether a segment opens a connection, or the kernel knows its connection."""
    source_port, port = struct.unpack_from("!HH", inner.payload)
    if inner.protocol != 6 or inner.version != 4 or inner.payload[13] & 0x12 == 0x02:
        return True
    ends = [(inner.destination, port), (inner.source, source_port)]
    wanted = [f"{int.from_bytes(address, sys.byteorder):08X}:{port:04X}" for address, port in ends]
    with open("/proc/net/tcp") as connections:
        return any(line.split()[1:3] == wanted for line in connections)


class Passing:
    """Sends packets on to the backend that their header names next."""

    def __init__(self):
        self.count = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def on(self, packet, hop):
        size = (packet[0] & 15) * 4
        packet = bytearray(packet)
        packet[8] -= 1
        packet[12:16], packet[16:20] = packet[16:20], hop
        # Behind the UDP header and GUE's own: type, index of the next hop. The kernel makes the IP checksum anew.
        packet[size + 8 + 4 + 2] += 1
        self.socket.sendto(packet, (socket.inet_ntoa(hop), 0))
        self.count += 1


class Judge:
    def __init__(self, kind, vips):
        self.tunnel = Tunnel(kind)
        self.passing = Passing()
        self.reassembly = Reassembly()
        self.fragments = 0
        self.vips = {ipaddress.ip_address(vip).packed for vip in vips}
        self.packets = collections.Counter()
        self.seen = collections.defaultdict(set)
        self.faults = collections.Counter()

    def packet(self, data):
        """What is in `data`, when it is of this tunnel and right."""
        try:
            outer = ip(data, "outer")
            self.fragments += outer.fragment is not None
            outer = self.reassembly.whole(outer)
            if outer is None or not self.tunnel.is_ours(outer):
                return None
            payload, version = self.tunnel.inner(outer)
            inner = ip(payload, "inner")
            need(inner.version == version, f"inner: IPv{inner.version} is called IPv{version}")
            need(inner.destination in self.vips, "inner: not to a VIP")
            need(l4_checksum_holds(inner), "inner: checksum of L4")
        except (Fault, struct.error, IndexError) as fault:
            self.faults[f"{type(fault).__name__} {fault}"] += 1
            return None
        if self.tunnel.next_hop and not is_known(inner):
            self.passing.on(data, self.tunnel.next_hop)
            return None
        self.packets[f"{inner.version}in{outer.version}"] += 1
        self.seen["sources"].add(str(ipaddress.ip_address(outer.source)))
        self.seen["ttls"].add(outer.ttl)
        self.seen["dscps"].add(outer.dscp)
        self.seen["inner_ttls"].add(inner.ttl)
        return payload

    def said(self):
        seen = {name: sorted(values) for name, values in self.seen.items()}
        ports = len(self.tunnel.source_ports)
        counts = {"packets": self.packets, "fragments": self.fragments, "faults": self.faults, "source_ports": ports}
        counts["passed_on"] = self.passing.count
        return json.dumps(counts | seen)


def tun():
    device = os.open("/dev/net/tun", os.O_RDWR)
    # TUNSETIFF with IFF_TUN | IFF_NO_PI
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"unwrapped", 0x1001))
    subprocess.run(["ip", "link", "set", "unwrapped", "up"], check=True)
    return device


def hide_from_the_kernel(tunnel):
    match = {"ipip": "meta l4proto { 4, 41 }", "gre": "meta l4proto 47"}.get(tunnel.name, f"udp dport {tunnel.number}")
    rules = f"""
        add table inet tunnel
        delete table inet tunnel
        add table inet tunnel
        add chain inet tunnel hidden {{ type filter hook prerouting priority -300; }}
        add rule inet tunnel hidden iifname != unwrapped {match} drop
    """
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)


def main(interface, kind, *vips):
    judge = Judge(kind, vips)
    device = tun()
    hide_from_the_kernel(judge.tunnel)
    sockets = []
    for ether_type in ETH_P:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        s.bind((interface, ether_type))
        s.setblocking(False)
        sockets.append(s)

    def end(*_):
        print(judge.said(), flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select(sockets, [], [])
        for s in readable:
            try:
                # A queue is never left while it has packets: fewer calls of select.
                while True:
                    payload = judge.packet(s.recv(65535))
                    if payload is not None:
                        os.write(device, payload)
            except BlockingIOError:
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
