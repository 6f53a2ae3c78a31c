//! `check = "http"`.

use control::health::{Failure, probe};

use crate::netns::NetNs;
use crate::servers::{Server, bad_server};
use crate::{check, fault, job_of};

#[test]
fn nginx_is_asked_as_the_rules_say() {
    let namespace = NetNs::new();
    let nginx = Server::nginx(
        &namespace,
        "listen 80; location = / { return 200 \"all is well\"; } location = /moved { return 302 /; } \
         location = /bad { return 503; } location = /host { return 200 \"asked for $host\"; }",
    );
    namespace.block_on(async || {
        let http = |more: &str| format!("check = \"http\"\n{more}");
        check(&http("")).await.expect("status 200");
        check(&http("body = \"is well\"")).await.expect("the body has it");
        check(&http("path = \"/moved\"")).await.expect("302 passes by default");
        check(&http("path = \"/host\"\nhost = \"www.example.org\"\nbody = \"for www.example.org\""))
            .await
            .expect("host");
        check(&http("method = \"HEAD\"\nstatus = 200")).await.expect("HEAD");
        check(&http("path = \"/none\"\nstatus = [\"200-299\", \"404\"]")).await.expect("404 is allowed");
        assert_eq!(fault(&http("path = \"/bad\"")).await, "status 503, wanted 200-399");
        assert_eq!(
            fault(&http("path = \"/moved\"\nstatus = \"200-299\"")).await,
            "status 302, wanted 200-299"
        );
        assert_eq!(fault(&http("body = \"is not\"")).await, "no \"is not\" in the body");
    });
    drop(nginx);
    namespace.block_on(async || assert_eq!(fault("check = \"http\"").await, "connection refused"));
}

/// Backends of such a service take no connection that begins otherwise.
#[test]
fn a_server_that_wants_the_proxy_protocol_gets_it() {
    for version in ["proxy-v1", "proxy-v2"] {
        let namespace = NetNs::new();
        let server = "listen 80 proxy_protocol; location / { return 200 \"well\"; }";
        let _nginx = Server::nginx(&namespace, server);
        namespace.block_on(async || {
            let http = "check = \"http\"\nbody = \"well\"";
            let client_address = format!("client_address = \"{version}\"");
            probe(&job_of(&client_address, http)).await.expect(version);
            // At another port there is another server, such as that of a management interface.
            let elsewhere = probe(&job_of(&client_address, &format!("{http}\nport = 80"))).await;
            assert!(matches!(elsewhere, Err(Failure::OfBackend(_))), "{elsewhere:?}");
        });
    }
}

/// What a bad server says, how often, and what is said of it.
fn bad(answer: Vec<u8>, times: usize, health: &str) -> String {
    let namespace = NetNs::new();
    let mut told = String::new();
    namespace.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        told = runtime.block_on(async {
            bad_server(answer, times).await;
            fault(&format!("check = \"http\"\n{health}")).await
        });
    });
    told
}

#[test]
fn a_server_that_stalls_after_it_accepted_is_late() {
    assert_eq!(bad(Vec::new(), 0, "timeout = \"200ms\""), "no answer to HTTP within 200ms");
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly so much".to_vec();
    assert_eq!(bad(begun, 1, "timeout = \"200ms\"\nbody = \"more\""), "no answer to HTTP within 200ms");
}

#[test]
fn a_server_that_speaks_something_else_or_without_end_fails() {
    let other = bad(b"220 mail.example.org ESMTP\r\n".to_vec(), 1, "");
    assert!(other.starts_with("no valid answer to HTTP: "), "{other}");
    let mut endless = b"x-more: y\r\n".repeat(100);
    endless.splice(0..0, *b"HTTP/1.1 200 OK\r\n");
    let head = bad(endless, 10_000, "interval = \"10s\"\ntimeout = \"10s\"");
    assert!(head.starts_with("no valid answer to HTTP: "), "{head}");
    let mut body = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    body.extend([b'x'; 10_000]);
    let body = bad(body, 10_000, "interval = \"10s\"\ntimeout = \"10s\"\nbody = \"ok\"");
    assert_eq!(body, "no \"ok\" in the first 65536 bytes of the body");
}
