//! QUIC clients that change their addresses: aioquic at both ends (its connection IDs made after the draft, by code that is in
//! `quic_end.py` and nowhere else), the director between them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::lab::{BACKENDS, CLIENT, Lab, VIP};
use testbed::process::{Process, until};

const AIOQUIC: &str = "aioquic==1.7.2";
const KEY: &str = "8f95f09245765f80256934e50c66207f";
const CONNECTIONS: usize = 9;
const ROUNDS: usize = 4;
/// The other address of the client.
const ELSEWHERE: &str = "192.0.2.20";

/// Where aioquic is; from the package registry where it is not there yet.
fn aioquic() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(AIOQUIC);
    if !directory.exists() {
        // Not to be found half done.
        let making = directory.with_extension(format!("making-{}", std::process::id()));
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&making)
            .arg(AIOQUIC)
            .output()
            .expect("python3");
        assert!(output.status.success(), "pip: {}", String::from_utf8_lossy(&output.stderr));
        // Another test may have been first.
        let _ = std::fs::rename(&making, &directory);
        let _ = std::fs::remove_dir_all(&making);
    }
    directory
}

fn script() -> String {
    testbed::lab::top().join("tests/src/quic_end.py").display().to_string()
}

fn python_path() -> String {
    format!("PYTHONPATH={}", aioquic().display())
}

/// A server on every backend: server ID 1 is the first one's.
fn servers(lab: &Lab, address: &str, l4_port: &str) -> Vec<Process> {
    let servers = (1..=BACKENDS).map(|number| {
        let (role, id) = (format!("backend{number}"), format!("{number:06x}"));
        let directory = lab.directory().display().to_string();
        let argv = ["env", &python_path(), "python3", &script(), "serve", address, l4_port, &role, &id, KEY];
        let argv = [&argv[..], &[&directory]].concat();
        let server = lab.start(&role, &format!("quic{number}"), &argv);
        assert!(until(Duration::from_secs(30), || server.stdout().contains("ready")), "{}", server.stderr());
        server
    });
    servers.collect()
}

/// The rules of `text` with a server ID for each backend.
fn with_server_ids(text: &str, network: &str, l4_port: &str) -> String {
    let mut text = text.to_owned();
    for number in 1..=BACKENDS {
        let address = format!("address = \"{network}.1{number}{l4_port}\"");
        text = replaced(&text, &address, &format!("{address}\n  server_id = {number}"));
    }
    format!(
        "{text}\n[service.server_ids]\ndatagrams = \"quic-lb\"\n\n[[service.quic_lb]]\nserver_id_length = 3\n\
         nonce_length = 8\nkey = \"{KEY}\"\nencodes_length = true\n"
    )
}

/// The client connects, moves and asks; it prints who answered.
fn roam(lab: &Lab) -> Output {
    lab.succeed("client", &["ip", "addr", "add", &format!("{ELSEWHERE}/24"), "dev", "eth0"]);
    let (connections, rounds) = (CONNECTIONS.to_string(), ROUNDS.to_string());
    let argv = ["env", &python_path(), "python3", &script(), "roam", VIP, "443", &connections, &rounds];
    lab.run("client", &[&argv[..], &[CLIENT, ELSEWHERE]].concat())
}

/// `by_weight` is who gets how many: with several workers each has a round of its own.
fn assert_clients_keep_their_backends(lab: &Lab, director: &Director, by_weight: Option<[usize; BACKENDS]>) {
    let output = roam(lab);
    let names = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{names}{}", String::from_utf8_lossy(&output.stderr));
    let of = |name: &str| names.lines().filter(|line| *line == name).count();
    let found = [of("backend1"), of("backend2"), of("backend3")];
    assert_eq!(found.iter().sum::<usize>(), CONNECTIONS, "{names}");
    assert!(by_weight.is_none_or(|wanted| wanted == found), "{names}");
    let status = director.status();
    let routed = &status["services"][0]["routed"];
    // A socket that was used before may get its l4_port again: then its flow is known.
    let by_server_id = routed["by_server_id"].as_u64().unwrap();
    assert!((30..=36).contains(&by_server_id), "{routed}");
    assert_eq!(routed["strangers"], 0, "{routed}");
}

#[test]
fn dr_keeps_a_quic_clients_backend_over_changes_of_its_address() {
    let lab = Lab::one_arm();
    let _servers = servers(&lab, VIP, "443");
    let text = replaced(&rules("dr.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:443"));
    let director = Director::start(&lab, &with_server_ids(&text, "192.0.2", ""));
    assert_clients_keep_their_backends(&lab, &director, Some([5, 3, 1]));
    director.stop();
}

#[test]
fn fullnat_keeps_a_quic_clients_backend_with_two_workers() {
    let lab = Lab::two_arms();
    let _servers = servers(&lab, "0.0.0.0", "8443");
    let text = replaced(&rules("quickstart.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:443"));
    let text = with_server_ids(&replaced(&text, ":8080", ":8443"), "10.0.0", ":8443");
    let director = Director::start(&lab, &with_two_workers(&text));
    assert_clients_keep_their_backends(&lab, &director, None);
    director.stop();
}

/// So that the tests above show something.
#[test]
fn without_server_ids_a_quic_client_is_lost_with_its_first_move() {
    let lab = Lab::one_arm();
    let _servers = servers(&lab, VIP, "443");
    let text = replaced(&rules("dr.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:443"));
    let director = Director::start(&lab, &text);
    let output = roam(&lab);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("TimeoutError"), "{stderr}");
    director.stop();
}
