//! `configs/crossdock.service`: systemd accepts it, the process tells systemd what the unit promises, and what the unit takes
//! away from the process is not missed.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testbed::director::{binary, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers, top};
use testbed::process::{Process, until};

/// A start, a reload, a sign of life: generous, machines are shared.
const PATIENCE: Duration = Duration::from_secs(30);

fn unit() -> String {
    fs::read_to_string(top().join("configs/crossdock.service")).expect("the unit")
}

/// The unit names the place where the binary is installed; here it is in the target directory.
#[test]
fn systemd_accepts_the_unit() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("crossdock.service");
    let verify = |text: &str| {
        fs::write(&path, text).expect("the unit");
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output();
        output.expect("systemd-analyze: apt-get install systemd")
    };
    let text = replaced(&unit(), "/usr/local/bin/crossdock", &binary().display().to_string());
    let output = verify(&text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("crossdock.service"), "{said}");
    // It would say so.
    let output = verify(&replaced(&text, "Restart=on-failure", "Restart=sometimes\nRestrat=x"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("sometimes") && said.contains("Restrat"), "{said}");
}

/// What has been sent to the socket until `wanted` came.
fn hear(socket: &UnixDatagram, wanted: &str) -> String {
    let started = Instant::now();
    let mut heard = String::new();
    let mut datagram = [0; 4096];
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    while started.elapsed() < PATIENCE {
        if let Ok(len) = socket.recv(&mut datagram) {
            heard += &format!("{}\n", String::from_utf8_lossy(&datagram[..len]));
        }
        if heard.lines().any(|line| line.starts_with(wanted)) {
            return heard;
        }
    }
    panic!("{wanted} was not said in {PATIENCE:?}, but:\n{heard}");
}

fn start_with(lab: &Lab, environment: &[String], prefix: &[&str], text: &str) -> Process {
    let path = lab.directory().join("rules.toml");
    let socket = lab.directory().join("crossdock.sock");
    fs::write(&path, format!("[control]\nsocket = \"{}\"\n{text}", socket.display())).expect("the rules");
    let (binary, path) = (binary().display().to_string(), path.display().to_string());
    let mut argv = vec!["env"];
    argv.extend(environment.iter().map(String::as_str));
    argv.extend(prefix);
    argv.extend([binary.as_str(), "run", "-c", &path]);
    lab.start("director", "crossdock", &argv)
}

#[test]
fn systemd_is_told_of_readiness_reloads_life_and_the_end() {
    let lab = Lab::two_arms();
    let path = lab.directory().join("notify.sock");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let environment = [format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=400000".to_owned()];
    let text = rules("quickstart.toml");
    let mut crossdock = start_with(&lab, &environment, &[], &text);
    let said = hear(&socket, "READY=1");
    assert!(!said.contains("RELOADING") && !said.contains("STOPPING"), "{said}");
    assert!(said.contains("STATUS=1 service, 3 backends"), "what systemctl status shows: {said}");
    hear(&socket, "WATCHDOG=1");
    hear(&socket, "WATCHDOG=1");
    crossdock.signal(Signal::SIGHUP);
    let said = hear(&socket, "RELOADING=1");
    assert!(said.contains("MONOTONIC_USEC="), "{said}");
    hear(&socket, "READY=1");
    // Refused or not, a reload ends.
    fs::write(lab.directory().join("rules.toml"), "nonsense").expect("the rules");
    crossdock.signal(Signal::SIGHUP);
    hear(&socket, "RELOADING=1");
    hear(&socket, "READY=1");
    crossdock.signal(Signal::SIGTERM);
    hear(&socket, "STOPPING=1");
    assert!(crossdock.wait(PATIENCE).success(), "{}", crossdock.stderr());
}

/// The capabilities that the unit leaves it, for setpriv.
fn bounding_set() -> String {
    let unit = unit();
    let line =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    let names = line.split(' ').map(|name| format!(",+{}", name.to_lowercase().trim_start_matches("cap_")));
    format!("-all{}", names.collect::<String>())
}

/// An af_packet director and an af_xdp one, with kernel twins, shields and XDP programs.
#[test]
fn the_units_capabilities_are_enough() {
    let set = bounding_set();
    let bounding = format!("--bounding-set={set}");
    for driver in ["af_packet", "af_xdp"] {
        let lab = Lab::two_arms();
        let servers = WebServers::start(&lab, 8080);
        let text = replaced(&rules("quickstart.toml"), "af_packet:", &format!("{driver}:"));
        let mut crossdock = start_with(&lab, &[], &["setpriv", "--no-new-privs", &bounding], &text);
        let is_ready = || crossdock.stderr().contains("ready: ");
        assert!(until(PATIENCE, is_ready), "{driver}: {}", crossdock.stderr());
        let knows_all = || crossdock.stderr().matches("next hop of 10.0.0.1").count() >= 3;
        assert!(until(PATIENCE, knows_all), "{driver}: {}", crossdock.stderr());
        for _ in 0..9 {
            lab.fetch(&format!("http://{VIP}/"));
        }
        assert_eq!(servers.requests(), [5, 3, 1], "{driver}");
        assert!(crossdock.stop().success(), "{driver}: {}", crossdock.stderr());
    }
}
