//! Every mode of forwarding in the routed lab, in both families: TCP (nginx, curl, wrk), datagrams, ping. What is asked of a
//! mode stands here once; a mode says which rules and which network it needs.

mod checks;
mod client_address;
mod decap;
mod direct;
mod fullnat;
mod health;
mod large;
mod nat;
mod offload;
mod pings;
mod routed_tunnels;
mod snat;
mod translation;
mod tunnels;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use testbed::director::{Director, replaced};
use testbed::ends::{CLOSED_PORT, ECHO_PORT, EchoServers, LATE_PORT, ask, hears_refusal, knock_and_leave};
use testbed::lab::{Family, Lab, VIP, VIP6, WebServers};
use testbed::process::until;

/// Bytes of a download or upload.
const BIG: usize = 10_000_000;

/// From which address the backends answer, and by which way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// Their own, to a local address of the director's.
    OwnAddress,
    /// Their own, and their gateway is the director.
    ThroughDirector,
    /// The VIP, past the director.
    Vip,
}

/// Whether backends see the client's address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Seen,
    Hidden,
}

/// The routed lab with servers on every backend.
struct Network {
    lab: Lab,
    servers: WebServers,
    echo: EchoServers,
}

impl Network {
    fn start(answers: Answers) -> Self {
        Self::start_in(Lab::routed(), answers)
    }

    fn start_in(lab: Lab, answers: Answers) -> Self {
        match answers {
            Answers::OwnAddress => {}
            Answers::ThroughDirector => lab.answer_through_director(),
            Answers::Vip => lab.own_vips(),
        }
        let servers = WebServers::start(&lab, 80);
        let addresses = if answers == Answers::Vip { [VIP, VIP6] } else { ["0.0.0.0", "::"] };
        let echo = EchoServers::start(&lab, &addresses);
        Self { lab, servers, echo }
    }

    /// A director with these rules, whose services listen on TCP 80 of the VIPs, here also on UDP 5353.
    fn director(&self, rules: &str, families: &[Family]) -> Director {
        let director = Director::start(&self.lab, &with_datagrams(rules, families));
        self.lab.route_director();
        director
    }

    /// All of it, by a director with these rules, which drops nothing.
    fn carries_everything(&self, rules: &str, families: &[Family], client: Client) {
        let director = self.director(rules, families);
        self.carries_traffic(families, client);
        self.carries_errors(families);
        let summary = director.stop();
        assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
    }

    fn carries_traffic(&self, families: &[Family], client: Client) {
        for &family in families {
            self.carries_small(family, client);
            self.carries_both_ways(family);
        }
    }

    fn carries_small(&self, family: Family, client: Client) {
        self.spreads_requests(family, client);
        self.spreads_datagrams(family);
        self.carries_a_burst(family);
        self.answers_ping(family);
    }

    /// ICMP errors: of both ends, which the kernel at the other end takes for one of its own sockets, and of a router. The
    /// ends do not know that the link has become narrow, and send too much; what is said of answers is addressed to the VIP.
    fn carries_errors(&self, families: &[Family]) {
        for &family in families {
            assert!(hears_refusal(&self.lab, family), "{family:?}: no error came to the client");
            let before = self.echo.refused();
            knock_and_leave(&self.lab, family);
            let is_refused = || self.echo.refused() == before + 1;
            assert!(until(Duration::from_secs(30), is_refused), "{family:?}: no error came to the backends");
        }
        self.lab.narrow(1400);
        for &family in families {
            self.carries_both_ways(family);
        }
    }

    /// Nine connections are five, three and one.
    fn spreads_requests(&self, family: Family, client: Client) {
        let before = self.servers.logs();
        for _ in 0..9 {
            assert!(self.lab.fetch(&family.url("/")).starts_with("backend"), "{family:?}");
        }
        let news: Vec<Vec<String>> =
            before.iter().zip(self.servers.logs()).map(|(old, all)| all[old.len()..].to_vec()).collect();
        assert_eq!(news.iter().map(Vec::len).collect::<Vec<_>>(), [5, 3, 1], "{family:?}");
        for line in news.iter().flatten() {
            let is_seen = line.split(' ').nth(1).is_some_and(|peer| peer.contains(family.client()));
            assert_eq!(is_seen, client == Client::Seen, "{family:?}: {line}");
        }
    }

    /// One byte, an odd size, and nearly what fits beside the headers of every mode.
    fn spreads_datagrams(&self, family: Family) {
        for (size, first_port) in [(1, 20_000), (333, 20_100), (1_300, 20_200)] {
            let answers = ask(&self.lab, family, 9, size, first_port);
            let of = |backend: &str| answers.iter().filter(|answer| *answer == backend).count();
            let spread = ["backend1", "backend2", "backend3"].map(of);
            assert_eq!(spread, [5, 3, 1], "{family:?}, {size} bytes");
        }
    }

    fn carries_both_ways(&self, family: Family) {
        self.carries_a_download(family);
        self.carries_an_upload(family);
    }

    fn carries_a_download(&self, family: Family) {
        let content = random_bytes();
        self.servers.serve_big(&content);
        let arrived = self.lab.directory().join("arrived");
        self.curl("-o", &arrived, &family.url("/big"));
        assert!(fs::read(&arrived).expect("the download") == content, "{family:?}: a download has changed");
    }

    fn carries_an_upload(&self, family: Family) {
        let content = random_bytes();
        let sent = self.lab.directory().join("sent");
        fs::write(&sent, &content).expect("the file to send");
        self.curl("-T", &sent, &family.url("/up/sent"));
        assert!(self.servers.take_upload("sent") == content, "{family:?}: an upload has changed");
    }

    /// With `-o` into the file, with `-T` from it.
    fn curl(&self, option: &str, file: &Path, url: &str) {
        let file = file.display().to_string();
        self.lab.succeed("client", &["curl", "-sS", "--fail", "-m", "20", option, &file, url]);
    }

    /// More connections at once than there are backends.
    fn carries_a_burst(&self, family: Family) {
        let out = self.lab.succeed("client", &["wrk", "-t1", "-c32", "-d1s", &family.url("/")]);
        assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{family:?}: {out}");
    }

    fn answers_ping(&self, family: Family) {
        // One at a time: of several `ping` waits for the last only twice as long as the others took.
        for _ in 0..3 {
            let out = self.lab.run("client", &["ping", "-c", "1", "-W", "20", family.vip()]);
            assert!(out.status.success(), "{family:?}: {}", String::from_utf8_lossy(&out.stdout));
        }
    }
}

/// The rules with services that listen for datagrams beside TCP.
fn with_datagrams(rules: &str, families: &[Family]) -> String {
    let mut text = rules.to_owned();
    for &family in families {
        let vip = match family {
            Family::Ipv4 => VIP.to_owned(),
            Family::Ipv6 => format!("[{VIP6}]"),
        };
        let datagrams = [ECHO_PORT, LATE_PORT, CLOSED_PORT].map(|port| format!(", \"udp {vip}:{port}\""));
        let listen = format!("[\"tcp {vip}:80\"{}]", datagrams.concat());
        text = replaced(&text, &format!("\"tcp {vip}:80\""), &listen);
    }
    text
}

fn random_bytes() -> Vec<u8> {
    let mut bytes = vec![0; BIG];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).expect("random bytes");
    bytes
}
