#!/usr/bin/env python3
"""Writes captures of UDP flows in random order for scripts/bench: the same bytes for the same arguments.

Every packet is an Ethernet frame of 60 bytes without FCS (the shortest there is): IPv4 without options, UDP with 18 bytes of
payload, checksums valid. Clients are random addresses of 10.0.0.0/8 with random l4_ports; all of them talk to one VIP. The file
holds as many passes over all flows as it takes to fill it, each in an order of its own, so that consecutive packets are of
unrelated flows. Format: pcap, microseconds, Ethernet (draft-ietf-opsawg-pcap).
"""

import argparse
import random
import struct

FRAME_BYTES = 60
IPV4_BYTES = FRAME_BYTES - 14
UDP_BYTES = IPV4_BYTES - 20
PROTOCOL_UDP = 17
# Locally administered, like every MAC of the benchmark.
DIRECTOR_MAC = bytes.fromhex("020000000001")
CLIENT_MAC = bytes.fromhex("020000000009")
# Magic number (microseconds), version 2.4, time zone and accuracy 0, snapshot length, Ethernet.
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


def internet_checksum(data):
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def frame(client, client_port, vip, vip_port):
    """One packet from a client to the VIP; addresses are 4 bytes."""
    payload = bytes(UDP_BYTES - 8)
    ports = struct.pack("!HH", client_port, vip_port)
    pseudo_header = client + vip + struct.pack("!BBH", 0, PROTOCOL_UDP, UDP_BYTES)
    without_checksum = ports + struct.pack("!HH", UDP_BYTES, 0) + payload
    # 0 would mean "no checksum" (RFC 768).
    udp_checksum = internet_checksum(pseudo_header + without_checksum) or 0xFFFF
    udp = ports + struct.pack("!HH", UDP_BYTES, udp_checksum) + payload
    head = struct.pack("!BBHHHBB", 0x45, 0, IPV4_BYTES, 0, 0, 64, PROTOCOL_UDP)
    ip_checksum = internet_checksum(head + bytes(2) + client + vip)
    ipv4 = head + struct.pack("!H", ip_checksum) + client + vip
    return DIRECTOR_MAC + CLIENT_MAC + struct.pack("!H", 0x0800) + ipv4 + udp


def endpoints(count, chooser):
    """Different client endpoints: address and l4_port."""
    chosen = {}
    while len(chosen) < count:
        address = bytes([10]) + chooser.getrandbits(24).to_bytes(3, "big")
        chosen[address, chooser.randint(1024, 65535)] = True
    return list(chosen)


def records(flow_count, packet_count, vip, vip_port, seed):
    """The packet records of the file, in order."""
    chooser = random.Random(seed)
    frames = [frame(address, port, vip, vip_port) for address, port in endpoints(flow_count, chooser)]
    written = 0
    while written < packet_count:
        chooser.shuffle(frames)
        for one in frames[: packet_count - written]:
            # A microsecond apart; nobody looks at the time.
            yield struct.pack("<IIII", written // 1_000_000, written % 1_000_000, len(one), len(one)) + one
            written += 1


def write(path, flow_count, packet_count, vip, vip_port, seed=1):
    """Writes the file; `packet_count` is at least `flow_count`, so that every flow is in it."""
    if packet_count < flow_count:
        raise ValueError(f"{packet_count} packets cannot show {flow_count} flows")
    with open(path, "wb") as file:
        file.write(PCAP_HEADER)
        file.writelines(records(flow_count, packet_count, vip, vip_port, seed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="the file to write")
    parser.add_argument("--flows", type=int, default=4096, help="different flows (default %(default)s)")
    parser.add_argument("--packets", type=int, default=65536, help="packets in all (default %(default)s)")
    parser.add_argument("--vip", default="203.0.113.10:53", help="where they go (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is random (default %(default)s)")
    arguments = parser.parse_args()
    address, port = arguments.vip.rsplit(":", 1)
    vip = bytes(int(part) for part in address.split("."))
    write(arguments.path, arguments.flows, arguments.packets, vip, int(port), arguments.seed)


if __name__ == "__main__":
    main()
