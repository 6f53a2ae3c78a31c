//! A shielded interface is deaf to its kernel and open to AF_PACKET, and nothing of the shield survives its
//! owner.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use control::kernel::{KernelError, Shield, connect};

use crate::netns::{NetNs, PATIENCE, captured};

/// Names the role of the process that the SIGKILL test starts from its own binary.
const OWNER: &str = "CROSSDOCK_TEST_SHIELD_OWNER";

/// A namespace with `bare`, an interface that will be shielded, and a peer that talks to it. The addresses
/// that make the kernel answer stand on another interface: the kernel answers for them on every one (weak
/// host model).
fn bare_and_peer() -> (NetNs, NetNs) {
    let (host, peer) = (NetNs::new(), NetNs::new());
    host.cable("bare", &peer, "up0");
    host.run("ip addr add 192.0.2.5/32 dev lo && ip route add 192.0.2.0/24 dev bare src 192.0.2.5");
    peer.run("ip addr add 192.0.2.9/24 dev up0");
    (host, peer)
}

fn wait_for_no_table(host: &NetNs) {
    let started = Instant::now();
    while !host.run("nft list tables").is_empty() {
        assert!(started.elapsed() < PATIENCE, "left behind: {}", host.run("nft list ruleset"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_kernel_goes_deaf_and_a_packet_socket_still_hears() {
    let (host, peer) = bare_and_peer();
    peer.run("ping -c 1 -W 5 192.0.2.5");
    host.block_on(async || {
        let shield = Shield::install(&connect().unwrap(), "bare").await.unwrap();
        assert!(
            !peer.attempt("ping -c 2 -i 0.2 -W 1 192.0.2.5").status.success(),
            "the kernel still answers ping"
        );
        peer.run("ip neigh flush dev up0");
        let heard = host.capture("bare", "arp");
        assert!(!peer.arp_answered("up0", "192.0.2.5"), "the kernel still answers ARP");
        assert!(captured(heard).contains("who-has 192.0.2.5"), "the packet socket hears nothing");
        // An owner's table is out of reach of a firewall reload.
        host.run("nft flush ruleset");
        assert!(!host.run("nft list tables").is_empty(), "flush ruleset took the shield");
        shield.remove().await.unwrap();
    });
    wait_for_no_table(&host);
    peer.run("ping -c 1 -W 5 192.0.2.5");
}

/// Sends one ARP request, "who has 192.0.2.100, tell 192.0.2.99", as DPDK's net_af_packet would.
const SEND_ONE: &str = "python3 -c '
import socket
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
s.bind((\"bare\", 0))
ethernet = \"ffffffffffff 020000000099 0806\"
arp = \"0001 0800 06 04 0001 020000000099 c0000263 000000000000 c0000264\"
s.send(bytes.fromhex(ethernet + arp))'";

#[test]
fn the_kernel_is_silent_and_a_packet_socket_still_sends() {
    let (host, peer) = bare_and_peer();
    // Coming up, an IPv6 stack reports its multicast groups and asks for routers; a route makes it ask for a
    // MAC.
    let provoke = || {
        host.run("ip link set bare down && ip link set bare up && sleep 1");
        host.run("ip route replace 192.0.2.0/24 dev bare src 192.0.2.5");
        host.attempt("ping -c 1 -W 1 192.0.2.9");
    };
    let unshielded = peer.capture("up0 -Q in", "");
    provoke();
    assert!(
        !captured(unshielded).is_empty(),
        "the kernel was silent without a shield: this test proves nothing"
    );
    host.block_on(async || {
        let shield = Shield::install(&connect().unwrap(), "bare").await.unwrap();
        assert!(shield.covers_egress(), "this kernel has no egress hook (5.16)");
        let first = peer.capture("up0 -Q in", "");
        provoke();
        host.run(SEND_ONE);
        let seen = captured(first);
        assert!(seen.contains("who-has 192.0.2.100 tell 192.0.2.99"), "the kernel spoke first: {seen}");
        drop(shield);
    });
    wait_for_no_table(&host);
}

#[test]
fn killing_the_owner_leaves_nothing() {
    if let Ok(ifname) = env::var(OWNER) {
        return own_until_killed(&ifname);
    }
    let (host, peer) = bare_and_peer();
    let mut owner = host.inside(|| {
        let mut command = Command::new(env::current_exe().expect("this test's path"));
        command.args(["--exact", "shield::killing_the_owner_leaves_nothing", "--nocapture"]);
        command.env(OWNER, "bare").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the owner")
    });
    let said = BufReader::new(owner.stdout.as_mut().expect("a pipe")).lines().map_while(Result::ok);
    assert!(said.take(10).any(|line| line.contains("shielded")), "the owner did not install its shield");
    assert!(host.run("nft list tables").contains("crossdock_"));
    owner.kill().expect("SIGKILL");
    owner.wait().expect("the owner's end");
    wait_for_no_table(&host);
    peer.run("ping -c 1 -W 5 192.0.2.5");
}

fn own_until_killed(ifname: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut shield = Shield::install(&connect().unwrap(), ifname).await.unwrap();
        println!("\nshielded");
        panic!("{}", shield.lost().await);
    });
}

#[test]
fn a_shield_that_somebody_shot_down_is_noticed() {
    let (host, _peer) = bare_and_peer();
    host.block_on(async || {
        let mut shield = Shield::install(&connect().unwrap(), "bare").await.unwrap();
        // The owner's process id is nowhere but among our children.
        let children = format!("/proc/{}/task/*/children", std::process::id());
        host.run(&format!(
            "for pid in $(cat {children}); do \
               [ \"$(cat /proc/$pid/comm)\" = nft ] && [ /proc/$pid/ns/net -ef /proc/self/ns/net ] && kill -9 $pid; \
             done; true"
        ));
        let error = shield.lost().await;
        assert!(error.to_string().contains("the shield is down"), "{error}");
    });
    wait_for_no_table(&host);
}

#[test]
fn an_interface_in_use_is_refused() {
    let (host, peer) = bare_and_peer();
    host.cable("member", &peer, "up1");
    host.run("ip addr add 198.51.100.5/24 dev bare && ip link add br0 type bridge && ip link set member master br0");
    host.block_on(async || {
        let handle = connect().unwrap();
        let error = Shield::install(&handle, "bare").await.unwrap_err();
        assert!(matches!(&error, KernelError::HoldsAddresses { .. }), "{error}");
        assert!(error.to_string().contains(r#"addresses = ["198.51.100.5/24"]"#), "{error}");
        let error = Shield::install(&handle, "member").await.unwrap_err();
        assert!(matches!(&error, KernelError::Enslaved { controller, .. } if controller == "br0"), "{error}");
        let error = Shield::install(&handle, "baer").await.unwrap_err();
        assert!(matches!(&error, KernelError::NoInterface { .. }), "{error}");
        assert!(host.run("nft list tables").is_empty());
    });
}
