//! `check = "tcp"`.

use tokio::net::TcpListener;

use crate::netns::NetNs;
use crate::{check, fault};

#[test]
fn a_connection_that_is_accepted_passes_and_leaves_nothing_behind() {
    let namespace = NetNs::new();
    namespace.block_on(async || {
        let listener = TcpListener::bind("127.0.0.1:80").await.expect("port 80");
        check("check = \"tcp\"").await.expect("it passes");
        listener.accept().await.expect("the connection of the check");
    });
    assert_eq!(namespace.run("ss -Htan"), "", "neither end remembers the connection");
}

#[test]
fn a_closed_port_is_refused_and_a_silent_host_is_late() {
    let namespace = NetNs::new();
    namespace.block_on(async || {
        assert_eq!(fault("check = \"tcp\"").await, "connection refused");
    });
    namespace.run("nft 'table ip f { chain c { type filter hook input priority 0; tcp dport 80 drop; }; }'");
    namespace.block_on(async || {
        let late = fault("check = \"tcp\"\ntimeout = \"100ms\"").await;
        assert_eq!(late, "no connection within 100ms");
    });
}
