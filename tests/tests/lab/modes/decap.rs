//! Tunnels that end at the director: the client's packets to the VIPs come in every kind of them, around both families and in
//! both. The kernel makes the outer headers, a program hands it what they carry.

use std::time::Duration;

use testbed::director::rules;
use testbed::lab::Family;
use testbed::process::until;

use super::{Answers, Client, Network};

/// Puts what goes to the VIPs into tunnels: argument 1 is the kind (`ipip`, `gre`, `gue0` or `gue1`), 2 where they end; then
/// each VIP, and the address to speak to it from. Says `ready` first.
const WRAP: &str = r#"
import fcntl, os, socket, struct, subprocess, sys
kind, end, vips = sys.argv[1], sys.argv[2], sys.argv[3:]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"wrap", 0x1001)) # TUNSETIFF, IFF_TUN | IFF_NO_PI
subprocess.run(["ip", "link", "set", "wrap", "up", "mtu", "1400"], check=True)
for vip, source in zip(vips[::2], vips[1::2]):
    subprocess.run(["ip", "route", "replace", vip, "dev", "wrap", "src", source], check=True)
family = socket.AF_INET6 if ":" in end else socket.AF_INET
PROTOCOLS, TYPES = {4: 4, 6: 41}, {4: 0x0800, 6: 0x86DD}
raw = {number: socket.socket(family, socket.SOCK_RAW, number) for number in (4, 41, 47)}
udp = socket.socket(family, socket.SOCK_DGRAM)
print("ready", flush=True)
while True:
    packet = os.read(tun, 65535)
    version = packet[0] >> 4
    if version not in PROTOCOLS:
        continue
    if kind == "ipip":
        raw[PROTOCOLS[version]].sendto(packet, (end, 0))
    elif kind == "gre":
        raw[47].sendto(struct.pack("!HH", 0, TYPES[version]) + packet, (end, 0))
    elif kind == "gue0":
        udp.sendto(struct.pack("!BBH", 0, PROTOCOLS[version], 0) + packet, (end, 6080))
    else:
        udp.sendto(packet, (end, 6080))
"#;

/// The director's address on the clients' side, where the tunnels end.
fn end_of(outer: Family) -> &'static str {
    match outer {
        Family::Ipv4 => "192.0.2.5",
        Family::Ipv6 => "2001:db8:1::5",
    }
}

#[test]
fn what_comes_in_tunnels_is_carried_like_anything_else() {
    let network = Network::start(Answers::OwnAddress);
    // Answers come back without a tunnel, by another way than the one to the VIP.
    let accept = "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done";
    network.lab.succeed("client", &["sh", "-c", accept]);
    let decap = "[decap]\naddresses = [\"192.0.2.5\", \"2001:db8:1::5\"]\n";
    let director = network.director(&format!("{decap}{}", rules("dual-stack.toml")), &Family::BOTH);
    let vips = Family::BOTH.map(|family| [family.vip(), family.client()]).concat();
    for outer in Family::BOTH {
        for kind in ["ipip", "gre", "gue0", "gue1"] {
            let argv = [&["python3", "-c", WRAP, kind, end_of(outer)][..], &vips].concat();
            let mut wrap = network.lab.start("client", &format!("wrap-{kind}-{outer:?}"), &argv);
            assert!(until(Duration::from_secs(30), || wrap.stdout().contains("ready")), "{}", wrap.stderr());
            for family in Family::BOTH {
                network.carries_small(family, Client::Hidden);
                network.carries_an_upload(family);
            }
            let _ = wrap.stop();
        }
    }
    let summary = director.stop();
    assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
    // Uploads alone are more than that: 10 MB in packets of 1,400 bytes, sixteen times.
    let unwrapped = summary["packets"]["decapsulated"].as_u64();
    assert!(unwrapped > Some(100_000), "{unwrapped:?} were unwrapped");
}
