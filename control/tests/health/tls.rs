//! `check = "https"` and `"tls"`: nginx and openssl with certificates of a CA of the test's own.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::netns::NetNs;
use crate::servers::{Server, bad_server, directory};
use crate::{check, fault};

/// A CA, and a server's certificate by it for www.example.org, in files.
fn certificates(namespace: &NetNs) -> TempDir {
    let directory = directory();
    let path = directory.path().display();
    namespace.run(&format!(
        "cd {path} && key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2' && \
         openssl req -x509 $key -keyout ca.key -out ca.pem -subj '/CN=test CA' \
           -addext basicConstraints=critical,CA:TRUE && \
         openssl req $key -keyout server.key -out server.csr -subj /CN=www.example.org && \
         printf 'subjectAltName=DNS:www.example.org' > san && \
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem && \
         openssl req -x509 $key -keyout other.key -out other.pem -subj '/CN=another CA' \
           -addext basicConstraints=critical,CA:TRUE"
    ));
    directory
}

fn ca(directory: &Path, name: &str) -> String {
    format!("ca = \"{}\"", directory.join(name).display())
}

#[test]
fn https_asks_by_name_and_believes_its_own_ca_alone() {
    let namespace = NetNs::new();
    let files = certificates(&namespace);
    let path = files.path().display();
    let _nginx = Server::nginx(
        &namespace,
        &format!(
            "listen 80 ssl; ssl_certificate {path}/server.pem; ssl_certificate_key {path}/server.key; \
             location / {{ return 200 \"asked for $ssl_server_name and $host\"; }}"
        ),
    );
    let (own, other) = (ca(files.path(), "ca.pem"), ca(files.path(), "other.pem"));
    namespace.block_on(async || {
        let https = |more: &str| format!("check = \"https\"\n{more}");
        let name = "www.example.org";
        check(&https(&format!("{own}\nhost = \"{name}\"\nbody = \"asked for {name} and {name}\"")))
            .await
            .expect("host");
        check(&https(&format!("{own}\nsni = \"{name}\""))).await.expect("sni");
        check(&https("insecure = true\nbody = \"asked for  and 127.0.0.1\"")).await.expect("insecure");
        for (settings, why) in [
            (format!("{own}\nsni = \"mail.example.org\""), "not valid for name"),
            (own.clone(), "not valid for name"),
            (format!("{other}\nsni = \"{name}\""), "UnknownIssuer"),
        ] {
            let told = fault(&https(&settings)).await;
            assert!(told.starts_with("TLS: invalid peer certificate") && told.contains(why), "{told}");
        }
    });
}

#[test]
fn tls_asks_for_a_handshake_and_nothing_more() {
    let namespace = NetNs::new();
    let files = certificates(&namespace);
    let own = ca(files.path(), "ca.pem");
    let argv =
        ["openssl", "s_server", "-quiet", "-accept", "80", "-cert", "server.pem", "-key", "server.key"];
    let server = Server::start(&namespace, files, &argv, 80);
    namespace.block_on(async || {
        check(&format!("check = \"tls\"\n{own}\nsni = \"www.example.org\"")).await.expect("a handshake");
    });
    drop(server);
    namespace.block_on(async || {
        bad_server(b"220 mail.example.org ESMTP\r\n".to_vec(), 1).await;
        let other = fault("check = \"tls\"\ninsecure = true").await;
        assert!(other.starts_with("TLS: "), "{other}");
    });
    let namespace = NetNs::new();
    namespace.block_on(async || {
        bad_server(Vec::new(), 0).await;
        let late = fault("check = \"tls\"\ninsecure = true\ntimeout = \"200ms\"").await;
        assert_eq!(late, "no TLS handshake within 200ms");
    });
}

#[test]
fn a_file_that_holds_no_certificate_is_an_error_of_the_rules() {
    let directory = directory();
    fs::write(directory.path().join("empty.pem"), "").expect("a file");
    for (name, why) in [("empty.pem", "there is no certificate in it"), ("none.pem", "cannot read")] {
        let text = format!(
            "[[port]]\nname = \"p\"\ndevice = \"null\"\n[[service]]\nname = \"s\"\nlisten = \"tcp 203.0.113.1:443\"\nmode = \"nat\"\n\
             health = {{ check = \"tls\", {} }}",
            ca(directory.path(), name)
        );
        let told = control::rules::Rules::parse("test", &text).expect_err("it is refused").plain();
        assert!(told.contains(why), "{told}");
    }
}
