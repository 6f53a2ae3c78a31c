//! `check = "grpc"`: a server on grpcio, the C library behind most of gRPC, and servers that are none.

use std::fs;

use crate::netns::NetNs;
use crate::servers::{Server, bad_server, directory};
use crate::{check, fault};

/// Serves as a whole and as `good`; `bad` does not; of others it has not heard.
const SERVER: &str = r#"
import grpc
from concurrent import futures
def check(request, context):
    # HealthCheckRequest: field 1, the name of a service
    service = request[2:].decode() if request else ""
    if service not in ("", "good", "bad"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\x08\x02" if service == "bad" else b"\x08\x01"
server = grpc.server(futures.ThreadPoolExecutor(2))
handler = grpc.unary_unary_rpc_method_handler(check)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),))
server.add_insecure_port("127.0.0.1:80")
server.start()
server.wait_for_termination()
"#;

#[test]
fn a_server_says_of_itself_and_of_its_services_whether_they_serve() {
    let namespace = NetNs::new();
    let files = directory();
    fs::write(files.path().join("server.py"), SERVER).expect("server.py");
    let _server = Server::start(&namespace, files, &["/usr/bin/python3", "server.py"], 80);
    namespace.block_on(async || {
        let grpc = |service: &str| format!("check = \"grpc\"\ntimeout = \"2s\"\n{service}");
        check(&grpc("")).await.expect("the server as a whole");
        check(&grpc("service = \"good\"")).await.expect("one of its services");
        assert_eq!(fault(&grpc("service = \"bad\"")).await, "gRPC: NOT_SERVING, wanted SERVING");
        assert_eq!(fault(&grpc("service = \"none\"")).await, "gRPC status 5 unknown service");
    });
}

#[test]
fn a_server_that_speaks_no_grpc_fails() {
    let namespace = NetNs::new();
    let nginx = Server::nginx(&namespace, "listen 80; location / { return 200 \"hello\"; }");
    namespace.block_on(async || {
        let told = fault("check = \"grpc\"").await;
        assert!(told.starts_with("no valid answer to HTTP/2: "), "{told}");
    });
    drop(nginx);
    let _nginx = Server::nginx(&namespace, "listen 80 http2; location / { return 404; }");
    namespace.block_on(async || {
        assert_eq!(fault("check = \"grpc\"").await, "HTTP status 404 in place of gRPC's");
    });
    let namespace = NetNs::new();
    namespace.block_on(async || {
        bad_server(Vec::new(), 0).await;
        assert_eq!(fault("check = \"grpc\"\ntimeout = \"200ms\"").await, "no answer to gRPC within 200ms");
    });
}
