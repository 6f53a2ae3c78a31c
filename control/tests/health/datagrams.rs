//! `check = "udp"` and `"dns"`: dnsmasq, socat, and nobody.

use tokio::net::UdpSocket;

use crate::netns::NetNs;
use crate::servers::{Server, directory};
use crate::{check, fault};

/// Waits for nothing but a bound socket: there is no handshake to wait for.
fn is_bound(namespace: &NetNs) {
    namespace.run("until ss -Hlun | grep -q ':80 '; do sleep 0.02; done");
}

#[test]
fn an_answer_is_judged_and_a_refusal_heard() {
    let namespace = NetNs::new();
    let argv = ["socat", "UDP4-RECVFROM:80,fork", "EXEC:cat"];
    let echo = Server::start(&namespace, directory(), &argv, 0);
    is_bound(&namespace);
    namespace.block_on(async || {
        check("check = \"udp\"\nsend = \"are you there\"\nexpect = \"you\"").await.expect("the echo");
        check("check = \"udp\"\nsend = \"x\"\nexpect = \"\"").await.expect("any answer");
        let other = fault("check = \"udp\"\nsend = \"ping\"\nexpect = \"pong\"").await;
        assert_eq!(other, "no \"pong\" in the answer");
    });
    drop(echo);
    // What socat has forked may still have the port of the first one.
    let namespace = NetNs::new();
    namespace.block_on(async || {
        assert_eq!(fault("check = \"udp\"\nsend = \"x\"").await, "connection refused", "ICMP says so");
        let _silent = UdpSocket::bind("127.0.0.1:80").await.expect("port 80");
        check("check = \"udp\"\nsend = \"x\"\ntimeout = \"100ms\"").await.expect("silence is no refusal");
        let late = fault("check = \"udp\"\nsend = \"x\"\nexpect = \"\"\ntimeout = \"100ms\"").await;
        assert_eq!(late, "no answer within 100ms");
    });
}

#[test]
fn a_name_resolves_or_the_check_fails() {
    let namespace = NetNs::new();
    let argv = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--port=80",
        "--user=root",
        "--pid-file=",
        "--host-record=www.example.org,203.0.113.10",
        "--local=/example.org/",
    ];
    let dnsmasq = Server::start(&namespace, directory(), &argv, 0);
    is_bound(&namespace);
    namespace.block_on(async || {
        check("check = \"dns\"\nquery = \"www.example.org\"").await.expect("it resolves");
        let none = fault("check = \"dns\"\nquery = \"nobody.example.org\"").await;
        assert_eq!(none, "nobody.example.org. A: non-existent domain");
        let other = fault("check = \"dns\"\nquery = \"www.example.org.\"\ntype = \"AAAA\"").await;
        assert_eq!(other, "no AAAA record of www.example.org. in the answer");
        let refused = fault("check = \"dns\"\nquery = \"www.example.net\"").await;
        assert_eq!(refused, "www.example.net. A: query refused");
    });
    drop(dnsmasq);
    namespace.block_on(async || {
        assert_eq!(fault("check = \"dns\"\nquery = \"www.example.org\"").await, "connection refused");
        let server = UdpSocket::bind("127.0.0.1:80").await.expect("port 80");
        tokio::spawn(async move {
            let mut query = [0; 512];
            let (len, client) = server.recv_from(&mut query).await.expect("a query");
            // Somebody else's answer first, then none at all.
            query[0] ^= 1;
            server.send_to(&query[..len], client).await.expect("an answer");
            server.send_to(b"HTTP/1.1 400 Bad Request", client).await.expect("an answer");
            std::future::pending::<()>().await;
        });
        let junk = fault("check = \"dns\"\nquery = \"www.example.org\"").await;
        assert!(junk.starts_with("no valid answer to DNS: "), "{junk}");
    });
}
