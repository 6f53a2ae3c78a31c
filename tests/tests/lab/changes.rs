//! The rules change while traffic goes on: by commands, by a file, and back again; and hundreds of times.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::director::{Director, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

/// Runs a command that is to succeed; what it prints.
fn done(director: &Director, words: &[&str]) -> String {
    let output = director.command(words, &[]).output().expect("crossdock runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that is to fail with `code`; what it complains of.
fn refused(director: &Director, words: &[&str], code: i32) -> String {
    let Output { status, stderr, .. } = director.command(words, &[]).output().expect("crossdock runs");
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(code), "{words:?}: {stderr}");
    stderr
}

/// The answers of `count` new connections.
fn answers(lab: &Lab, count: usize) -> Vec<String> {
    (0..count).map(|_| lab.fetch(&format!("http://{VIP}/")).trim().to_owned()).collect()
}

fn revision(director: &Director) -> u64 {
    director.status()["rules_revision"].as_u64().expect("a revision")
}

#[test]
fn backends_and_services_come_change_and_go_by_command() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &rules("quickstart.toml"));
    assert_eq!(revision(&director), 1);
    let said = done(&director, &["backend", "drain", "web", "10.0.0.11:8080"]);
    assert!(said.contains("state up -> drain"), "{said}");
    assert!(said.ends_with("in force as revision 2\n"), "{said}");
    let served = answers(&lab, 12);
    assert!(!served.contains(&"backend1".to_owned()), "{served:?}");
    done(&director, &["backend", "remove", "web", "10.0.0.12"]);
    assert_eq!(answers(&lab, 6), ["backend3"; 6]);
    done(&director, &["backend", "add", "web", "10.0.0.12:8080", "--weight", "3"]);
    done(&director, &["backend", "set", "web", "10.0.0.11", "state=up", "weight=5"]);
    let served = answers(&lab, 27);
    for backend in ["backend1", "backend2", "backend3"] {
        assert!(served.contains(&backend.to_owned()), "{served:?}");
    }
    let listen = format!("tcp {VIP}:81");
    done(
        &director,
        &[
            "service",
            "add",
            "more",
            "--listen",
            &listen,
            "--mode",
            "fullnat",
            "--backend",
            "10.0.0.13:8080=2",
            "timeouts.established=20m",
        ],
    );
    assert_eq!(lab.fetch(&format!("http://{VIP}:81/")), "backend3\n");
    done(&director, &["service", "set", "more", "scheduler=rr", "timeouts.established="]);
    let text = done(&director, &["rules"]);
    assert!(text.contains("name = \"more\"") && text.contains("scheduler = \"rr\""), "{text}");
    assert!(!text.contains("20m"), "{text}");
    done(&director, &["service", "remove", "more"]);
    let services: Value = serde_json::from_str(&done(&director, &["services", "--json"])).expect("JSON");
    assert_eq!(services.as_array().expect("a list").len(), 1);
    let table = done(&director, &["backends", "web"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    for list in ["services", "ports", "neighbours"] {
        assert!(done(&director, &[list]).lines().count() >= 2, "{list}");
    }
    let summary = director.stop();
    assert_eq!(summary["drops"]["no_local_port"], 0);
}

#[test]
fn a_file_is_applied_whole_or_not_at_all_and_taken_back() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let text = rules("quickstart.toml");
    let director = Director::start(&lab, &text);
    let before = done(&director, &["rules"]);
    let file = lab.directory().join("next.toml");
    let path = file.display().to_string();
    // As the director has it: its socket is the lab's own.
    fs::write(&file, replaced(&before, "weight  = 5", "weight  = 0")).expect("a file");
    let told = done(&director, &["apply", &path, "--dry-run"]);
    assert!(told.contains("weight 5 -> 0") && told.contains("dry run"), "{told}");
    assert_eq!((revision(&director), done(&director, &["rules"])), (1, before.clone()));
    done(&director, &["apply", &path, "--revision", "1"]);
    assert!(!answers(&lab, 12).contains(&"backend1".to_owned()));
    // Who has not seen that must not undo it.
    let stale = refused(&director, &["apply", &path, "--revision", "1"], 4);
    assert!(stale.contains("revision 2 is in force"), "{stale}");
    let stale = refused(&director, &["backend", "drain", "web", "10.0.0.12", "--revision", "1"], 4);
    assert!(stale.contains("revision 2 is in force"), "{stale}");

    let taken = fs::read_to_string(&file).expect("the file");
    fs::write(&file, replaced(&taken, "fullnat", "fulnat")).expect("a file");
    let wrong = refused(&director, &["apply", &path], 1);
    assert!(wrong.contains("next.toml") && wrong.contains("did you mean `fullnat`?"), "{wrong}");
    let wrong = refused(&director, &["service", "set", "web", "scheduler=rrr"], 1);
    assert!(wrong.contains("did you mean `rr`?"), "{wrong}");
    let wrong = refused(&director, &["backend", "remove", "wbe", "10.0.0.12"], 1);
    assert!(wrong.contains("is \"web\" meant?"), "{wrong}");
    fs::write(&file, replaced(&taken, "af_packet:", "af_xdp:")).expect("a file");
    let restart = refused(&director, &["apply", &path], 1);
    assert!(restart.contains("restart is needed"), "{restart}");
    assert_eq!(revision(&director), 2, "nothing of all that is in force");

    let told = done(&director, &["rollback"]);
    assert!(told.contains("weight 0 -> 5"), "{told}");
    assert_eq!((revision(&director), done(&director, &["rules"])), (3, before.clone()));
    assert!(answers(&lab, 9).contains(&"backend1".to_owned()));
    done(&director, &["rollback", "--to", "2"]);
    assert!(!answers(&lab, 12).contains(&"backend1".to_owned()));
    let unknown = refused(&director, &["rollback", "--to", "77"], 1);
    assert!(unknown.contains("revision 77 is not remembered"), "{unknown}");
    let list = done(&director, &["revisions"]);
    assert!(list.contains("the start, from") && list.contains("by root, process"), "{list}");
    // The file it was started with is what a reload brings back.
    director.reload(&text);
    assert!(answers(&lab, 9).contains(&"backend1".to_owned()));
    director.stop();
}

/// Services beside the one with traffic.
const SERVICES: usize = 1_000;
/// Connections that ask for changes at once, and changes that each asks for.
const WRITERS: usize = 10;
const CHANGES: usize = 40;

/// A thousand services, of which hundreds of changes are asked for as fast as they are made, while wrk's connections go on.
#[test]
fn hundreds_of_changes_lose_no_packet() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let mut text = rules("quickstart.toml");
    for number in 0..SERVICES {
        let _ = write!(
            text,
            "\n[[service]]\nname = \"s{number}\"\nlisten = \"tcp {VIP}:{}\"\nmode = \"fullnat\"\nscheduler = \"rr\"\n\
             backend = [{{ address = \"10.0.0.11:8080\" }}, {{ address = \"10.0.0.12:8080\" }}]\n",
            10_000 + number
        );
    }
    let director = Director::start(&lab, &text);
    let url = format!("http://{VIP}:80/");
    let mut wrk = lab.start("client", "wrk", &["wrk", "-t1", "-c20", "-d60s", &url]);
    assert!(until(Duration::from_secs(30), || open(&director) >= 20), "wrk has not begun");
    let begun = Instant::now();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let director = &director;
            scope.spawn(move || {
                let mut connection = Connection::open(director);
                for change in 0..CHANGES {
                    let service = (writer * CHANGES + change) % SERVICES;
                    let path = format!("/v1/services/s{service}/backends/10.0.0.11:8080");
                    let body = format!("{{\"weight\": {}}}", 1 + change % 7);
                    let (status, answer) = connection.ask("PATCH", &path, &body);
                    assert_eq!(status, 200, "{answer}");
                }
            });
        }
    });
    let rate = (WRITERS * CHANGES) as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} changes a second on this machine, with wrk on it");
    // A change that changes nothing is no revision.
    let changed = revision(&director) - 1;
    assert!(changed > (WRITERS * CHANGES / 2) as u64, "{changed} revisions");
    wrk.signal(nix::sys::signal::Signal::SIGINT);
    let ended = wrk.wait(Duration::from_secs(10));
    let told = wrk.stdout();
    assert!(
        ended.success() && !told.contains("Socket errors") && !told.contains("Non-2xx"),
        "{ended}: {told}"
    );
    assert!(told.contains("requests in"), "{told}");
    let summary = director.stop();
    let drops = summary["drops"].as_object().expect("drops");
    let lost: Vec<_> = drops.iter().filter(|(_, count)| **count != 0).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

fn open(director: &Director) -> u64 {
    director.status()["flows"]["open"].as_u64().expect("open connections")
}

/// HTTP/1.1 on the API's socket, with nothing between.
struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(director: &Director) -> Self {
        Self { stream: BufReader::new(UnixStream::connect(director.socket()).expect("the socket")) }
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: crossdock\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("a request");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a status");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("a header");
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).expect("a body");
        (status, String::from_utf8(answer).expect("text"))
    }
}

/// Makes a CA, a certificate of the director's and one of an operator's, as anybody would.
fn certificates(lab: &Lab) -> std::path::PathBuf {
    let directory = lab.directory().join("tls");
    fs::create_dir(&directory).expect("a directory");
    let script = "set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem
        for who in director operator; do
          openssl req -newkey rsa:2048 -nodes -subj /CN=$who -keyout $who.key -out $who.csr
          echo subjectAltName=IP:127.0.0.1 > $who.ext
          openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $who.ext -out $who.pem
        done";
    let output = std::process::Command::new("sh").args(["-c", script]).current_dir(&directory).output();
    let output = output.expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

#[test]
fn the_api_on_tcp_is_for_whoever_has_a_certificate() {
    let lab = Lab::two_arms();
    let tls = certificates(&lab);
    let file = |name: &str| tls.join(name).display().to_string();
    let text = rules("quickstart.toml");
    let listen = format!(
        "listen = \"127.0.0.1:9443\"\ncertificate = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
        file("director.pem"),
        file("director.key"),
        file("ca.pem")
    );
    let director = Director::start(&lab, &(listen + &text));
    let binary = testbed::director::binary().display().to_string();
    let url = "https://127.0.0.1:9443";
    let (ca, cert, key) = (file("ca.pem"), file("operator.pem"), file("operator.key"));
    let at = ["--url", url, "--ca", &ca, "--cert", &cert, "--key", &key];
    let run = |words: &[&str], at: &[&str]| {
        let argv: Vec<&str> = [binary.as_str()].iter().chain(words).chain(at).copied().collect();
        lab.run("director", &argv)
    };
    let status = run(&["status", "--json"], &at);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let drained = run(&["backend", "drain", "web", "10.0.0.11:8080"], &at);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert!(done(&director, &["revisions"]).contains("a certificate, from 127.0.0.1:"));
    // Software nobody here wrote.
    let curl = |options: &[&str]| {
        let version = format!("{url}/v1/status");
        let argv: Vec<&str> = ["curl", "-s", "-m", "5", "--cacert", &ca]
            .iter()
            .chain(options)
            .copied()
            .chain([version.as_str()])
            .collect();
        lab.run("director", &argv)
    };
    let answer = curl(&["--cert", &cert, "--key", &key]);
    assert!(answer.status.success() && answer.stdout.starts_with(b"{"), "{answer:?}");
    let without = curl(&[]);
    assert!(!without.status.success() && without.stdout.is_empty(), "{without:?}");
    // A certificate of its own making.
    let stranger = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout x.key -out x.pem";
    let made = std::process::Command::new("sh").args(["-c", stranger]).current_dir(&tls).output();
    assert!(made.expect("openssl runs").status.success());
    let refused = curl(&["--cert", &file("x.pem"), "--key", &file("x.key")]);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    let plain = lab.run("director", &["curl", "-s", "-m", "5", "http://127.0.0.1:9443/v1/status"]);
    assert!(!plain.status.success(), "{plain:?}");
    director.stop();
}

/// `run --watch`: the file is put in force when it changes, and a broken one is refused.
#[test]
fn a_watched_file_is_put_in_force_when_it_changes() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let text = rules("quickstart.toml");
    let director = Director::spawn_with(&lab, &text, &["--watch"]).ready();
    director.write_rules(&replaced(&text, "weight  = 5", "weight  = 0"));
    assert!(until(Duration::from_secs(20), || revision(&director) == 2), "{}", director.stderr());
    assert!(!answers(&lab, 12).contains(&"backend1".to_owned()));
    director.write_rules("[[service]]\nname = 7\n");
    assert!(
        until(Duration::from_secs(20), || director.stderr().contains("reload refused")),
        "{}",
        director.stderr()
    );
    assert_eq!(revision(&director), 2);
    director.stop();
}
