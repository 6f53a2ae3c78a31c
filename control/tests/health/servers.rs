//! Servers, real and bad, in a test's namespace.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::LONG;
use crate::netns::NetNs;

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    /// Goes with it.
    _directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a program and waits until somebody accepts connections at `port` (0: does not wait).
    pub(crate) fn start(namespace: &NetNs, directory: TempDir, argv: &[&str], port: u16) -> Self {
        let child = namespace.inside(|| {
            let mut command = Command::new(argv[0]);
            command.args(&argv[1..]).current_dir(&directory).stdin(Stdio::null());
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| panic!("{argv:?}: {e}"))
        });
        let server = Self { child, _directory: directory };
        let listens = || namespace.run("ss -Htln").contains(&format!(":{port} "));
        let began = Instant::now();
        while port != 0 && !listens() {
            assert!(began.elapsed() < LONG, "{argv:?} does not listen on {port}");
            thread::sleep(std::time::Duration::from_millis(20));
        }
        server
    }

    /// nginx with this inside its one `server { }`.
    pub(crate) fn nginx(namespace: &NetNs, server: &str) -> Self {
        let directory = directory();
        let path = directory.path().display();
        let configuration = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log; events {{}}\n\
             http {{ access_log {path}/access.log combined; server {{ {server} }} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration).expect("nginx.conf");
        let file = file.display().to_string();
        Self::start(namespace, directory, &["nginx", "-c", &file, "-e", "stderr"], 80)
    }
}

pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("xd-health.").tempdir_in("/tmp").expect("a directory")
}

/// Accepts one connection, reads a first piece, says `answer` as often as is asked, and then keeps it open and silent. On the
/// current runtime; whoever calls polls it.
pub(crate) async fn bad_server(answer: Vec<u8>, times: usize) {
    let listener = TcpListener::bind("127.0.0.1:80").await.expect("port 80 of the namespace");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        for _ in 0..times {
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
}
