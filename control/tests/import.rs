//! `crossdock import`, the real binary, on every file of `tests/import`: the rules and everything else it prints are compared with
//! `.toml` and `.txt` beside the input, and the rules must be valid. `CROSSDOCK_GOLDEN=rewrite cargo test -p control --test import`
//! rewrites them, for review in git. What LVS itself wrote is imported too where it was recorded beside this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use control::import::{Format, PortSettings, import};
use control::ipvsadm::Names;
use control::rules::Rules;
use proptest::prelude::*;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// Runs where the inputs are, so that what is printed does not depend on where the repository stands.
fn crossdock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .args(arguments)
        .current_dir(directory())
        .env_remove("CLICOLOR_FORCE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_input_becomes_what_stands_beside_it() {
    let bless = std::env::var_os("CROSSDOCK_GOLDEN").is_some_and(|mode| mode == "rewrite");
    let mut inputs: Vec<PathBuf> =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.retain(|path| path.extension().is_some_and(|found| found == "ipvsadm" || found == "keepalived"));
    inputs.sort();
    assert!(!inputs.is_empty());
    for input in inputs {
        let format = input.extension().unwrap().to_str().unwrap();
        let name = input.file_name().unwrap().to_str().unwrap();
        let output = crossdock(&["import", format, name]);
        let (rules, said) = (text(&output.stdout), text(&output.stderr));
        let code = output.status.code().expect("not ended by a signal");
        let said = format!("exit code {code}\n--- stderr\n{said}");
        assert_eq!(name.starts_with("bad"), code == 1, "{name}\n{said}");
        if code == 0 {
            must_be_valid(&rules);
        }
        let kept = [("toml", &rules), ("txt", &said)];
        // Of input that is refused there are no rules.
        for (ending, found) in kept.into_iter().filter(|(_, found)| !found.is_empty()) {
            let path = input.with_file_name(format!("{name}.{ending}"));
            if bless {
                fs::write(&path, found).unwrap();
            }
            let expected = fs::read_to_string(&path).unwrap();
            assert!(*found == expected, "{name} got\n{found}\nand not\n{expected}");
        }
        assert!(code == 0 || rules.is_empty(), "{name}: {rules}");
    }
}

fn must_be_valid(rules: &str) -> Rules {
    Rules::parse("imported.toml", rules).unwrap_or_else(|error| panic!("{}\n{rules}", error.plain()))
}

fn import_text(format: Format, text: &str, names: &Names) -> control::import::Imported {
    let imported = import(format, Path::new("input"), text.as_bytes(), names, &PortSettings::default());
    imported.unwrap_or_else(|error| panic!("{:#?}", error.problems))
}

/// What LVS's own tools wrote. The recordings stand beside the repository, not in it.
#[test]
fn what_was_recorded_from_lvs_is_imported() {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/ipvs");
    if !recordings.exists() {
        eprintln!("{} is not there: nothing to import", recordings.display());
        return;
    }
    let names =
        Names::of_services("http 80/tcp\nhttp-alt 8080/tcp\nhttps 443/tcp\ndomain 53/udp\nsip 5060/udp\n");
    let read = |file: &str| fs::read_to_string(recordings.join(file)).unwrap();
    let named = import_text(Format::Ipvsadm, &read("formats/ipvsadm-S.txt"), &names);
    let numeric = import_text(Format::Ipvsadm, &read("formats/ipvsadm-S-n.txt"), &Names::default());
    assert_eq!(named, numeric, "names or numbers are the same");
    let rules = must_be_valid(&numeric.rules);
    assert_eq!((rules.services.len(), numeric.service_count), (10, 10), "two more are firewall marks");
    let input = import_text(Format::Ipvsadm, &read("formats/input-rules.txt"), &names);
    assert!(input.rules.contains("max_connections = 100\n  resume_below    = 50"), "{}", input.rules);
    must_be_valid(&input.rules);
    for (file, services) in [("minimal", 1), ("health", 1), ("rich", 4)] {
        let imported = import_text(Format::Keepalived, &read(&format!("keepalived/{file}.conf")), &names);
        let rules = must_be_valid(&imported.rules);
        assert_eq!(rules.services.len(), services, "{file}\n{}", imported.rules);
    }
}

#[test]
fn the_port_is_what_the_command_line_says() {
    let output = crossdock(&[
        "import",
        "ipvsadm",
        "saved.ipvsadm",
        "--device",
        "0000:03:00.0",
        "--address",
        "10.0.0.5/24",
        "--address",
        "2001:db8::5/64",
    ]);
    let rules = must_be_valid(&text(&output.stdout));
    assert_eq!(rules.ports.first().map(|port| port.device.to_string()).as_deref(), Some("0000:03:00.0"));
    assert_eq!(rules.ports.first().map(|port| port.addresses.len()), Some(2));
    let output = crossdock(&["import", "ipvsadm", "saved.ipvsadm", "--device", "eth0"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains("an interface? then `af_packet:eth0`"), "{}", text(&output.stderr));
}

#[test]
fn a_file_is_not_overwritten_unless_that_is_said() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("rules.toml");
    let file = file.to_str().unwrap();
    let arguments = ["import", "ipvsadm", "saved.ipvsadm", "-o", file];
    let output = crossdock(&arguments);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", text(&output.stderr));
    let first = fs::read_to_string(file).unwrap();
    must_be_valid(&first);
    fs::write(file, "mine").unwrap();
    let output = crossdock(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("exists; --force overwrites it"));
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    let output = crossdock(&[&arguments[..], &["--force"]].concat());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read_to_string(file).unwrap(), first);
}

#[test]
fn standard_input_is_read_too() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossdock"));
        command
            .args(arguments)
            .stdin(fs::File::open(directory().join("saved.ipvsadm")).unwrap())
            .output()
            .unwrap()
    };
    let output = run(&["import", "ipvsadm"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("# Written by `crossdock import ipvsadm standard input`"));
    assert_eq!(text(&run(&["import", "ipvsadm", "-"]).stdout), text(&output.stdout));
}

/// Lines of both formats, whole and torn.
fn lines() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "ipvsadm",
        "-A",
        "-a",
        "-t",
        "-u",
        "-f",
        "-s",
        "-p",
        "-M",
        "-r",
        "-g",
        "-i",
        "-m",
        "-w",
        "-x",
        "-y",
        "-o",
        "-E",
        "-e",
        "10.0.0.1:80",
        "10.0.0.2",
        "[2001:db8::1]:80",
        "2001:db8::2",
        "300",
        "0",
        "80",
        "4294967295",
        "wlc",
        "sh",
        "\"",
        "'",
        "{",
        "}",
        "\n",
        "\\\n",
        "virtual_server",
        "real_server",
        "HTTP_GET",
        "TCP_CHECK",
        "MISC_CHECK",
        "url",
        "path",
        "/x",
        "delay_loop",
        "0.0000001",
        "group",
        "G",
        "virtual_server_group",
        "10.0.0.1-255",
        "fe80::1-ffff",
        "0.0.0.0/0",
        "lb_kind",
        "TUN",
        "type",
        "gue",
        "port",
        "protocol",
        "TCP",
        "quorum",
        "weight",
        "$A=",
        "$A",
        "@x",
        "include",
        "misc_path",
        "é",
        "\0",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing that is read panics, and what is imported is valid.
    #[test]
    fn any_bytes_are_imported_or_refused(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        lines().prop_map(String::into_bytes),
    ]) {
        for format in [Format::Ipvsadm, Format::Keepalived] {
            let name = Path::new("/nonexistent/input");
            let imported = import(format, name, &bytes, &Names::default(), &PortSettings::default());
            if let Ok(imported) = imported {
                must_be_valid(&imported.rules);
            }
        }
    }

    /// Tables as LVS may have them, with everything that the rules refuse.
    #[test]
    fn whatever_lvs_has_becomes_valid_rules(
        services in prop::collection::vec((0_u8..3, 0_u8..4, 0_u16..3, 0_usize..15, any::<(bool, bool)>()), 1..5),
        servers in prop::collection::vec((0_usize..5, 0_u8..6, 0_u16..3, 0_usize..5, 0_u32..3), 0..12),
    ) {
        let mut script = String::new();
        let names: Vec<String> = services.iter().map(|(protocol, vip, l4_port, ..)| {
            let option = ["-t", "-u", "--sctp-service"][usize::from(*protocol)];
            let vip = ["10.0.0.1", "10.0.0.2", "[2001:db8::1]", "127.0.0.1"][usize::from(*vip)];
            format!("{option} {vip}:{l4_port}")
        }).collect();
        let schedulers = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos", "other"];
        let mut added: Vec<&String> = Vec::new();
        for (name, (.., scheduler, (persistent, one_packet))) in names.iter().zip(&services) {
            if added.contains(&name) {
                continue;
            }
            added.push(name);
            let persistence = if *persistent { " -p 2000000000" } else { "" };
            let one_packet = if *one_packet { " -o" } else { "" };
            script += &format!("-A {name} -s {}{persistence}{one_packet}\n", schedulers[*scheduler]);
        }
        let ways = ["-g", "-m", "-i", "-i --tun-type gre --tun-csum", "-i --tun-type gue --tun-port 6080 --tun-remcsum"];
        let mut seen = Vec::new();
        for (service, server, l4_port, way, upper) in servers {
            let name = &names[service % names.len()];
            let host = ["10.0.0.1", "10.0.1.1", "10.0.1.2", "[2001:db8:1::1]", "127.0.0.2", "192.0.2.5"][usize::from(server)];
            let place = format!("{name} -r {host}:{l4_port}");
            if !seen.contains(&place) {
                script += &format!("-a {place} {} -w {} -x {upper}\n", ways[way], upper * 900_000);
                seen.push(place);
            }
        }
        let imported = import_text(Format::Ipvsadm, &script, &Names::default());
        let rules = must_be_valid(&imported.rules);
        prop_assert_eq!(rules.services.len(), imported.service_count);
        let backends: usize = rules.services.iter().map(|service| service.backends.len()).sum();
        prop_assert_eq!(backends, imported.backend_count);
    }

    /// Files as keepalived may read them, with every check and with what the rules refuse of them.
    #[test]
    fn whatever_keepalived_has_becomes_valid_rules(
        services in prop::collection::vec(prop::collection::vec(statement(SERVICE), 0..8), 1..4),
        servers in prop::collection::vec((0_usize..4, prop::collection::vec(statement(SERVER), 0..5), statement(CHECK)), 0..6),
    ) {
        let mut file = "virtual_server_group G {\n10.0.0.1-3 80\n10.0.0.2 0\nfwmark 3\n}\n\
                        vrrp_instance V {\nvirtual_ipaddress {\n10.0.0.2/24\n}\n}\n".to_owned();
        let heads = ["10.0.0.1 80", "10.0.0.2", "2001:db8::1 443", "group G"];
        for (index, service) in services.iter().enumerate() {
            file += &format!("virtual_server {} {{\n{}\n", heads[index], service.join("\n"));
            for (host, words, check) in &servers {
                let host = ["10.0.1.1 80", "10.0.1.2", "2001:db8:1::1 8080", "127.0.0.1 80"][*host];
                file += &format!("real_server {host} {{\n{}\n{check}\n}}\n", words.join("\n"));
            }
            file += "}\n";
        }
        let imported = import_text(Format::Keepalived, &file, &Names::default());
        let rules = must_be_valid(&imported.rules);
        prop_assert_eq!(rules.services.len(), imported.service_count);
    }
}

/// One of a few.
fn statement(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(of)
}

const SERVICE: &[&str] = &[
    "protocol TCP",
    "protocol SCTP",
    "lb_kind DR",
    "lb_kind TUN",
    "lvs_method TUN type gre csum",
    "lb_algo sh",
    "lb_algo fo",
    "ops",
    "persistence_timeout",
    "persistence_timeout 99999999",
    "persistence_granularity 255.255.0.0",
    "persistence_granularity 64",
    "quorum 3",
    "quorum 0",
    "sorry_server 10.0.9.9 80",
    "sorry_server 127.0.0.1",
    "sorry_server 10.0.1.1 80",
    "alpha",
    "inhibit_on_failure",
    "delay_loop 0.001",
    "delay_loop 90000",
    "connect_timeout 0",
    "connect_timeout 9",
    "retry 4294967295",
];
const SERVER: &[&str] = &[
    "weight 0",
    "weight 4000000",
    "uthreshold 5",
    "lthreshold 9",
    "inhibit_on_failure",
    "lb_kind NAT",
    "lb_kind TUN",
    "alpha",
    "delay_loop 3",
    "virtualhost a/b",
    "notify_up x",
    "nonsense 1",
];
const CHECK: &[&str] = &[
    "",
    "TCP_CHECK { }",
    "TCP_CHECK {\nconnect_port 99\nconnect_ip 10.0.8.8\n}",
    "TCP_CHECK {\nconnect_ip ::1\n}",
    "HTTP_GET {\nurl {\npath /x\nstatus_code 200 300-310\nregex ok\n}\n}",
    "HTTP_GET {\nurl {\npath x\nstatus_code 9\nregex ^a\n}\n}",
    "SSL_GET {\nsni_name ..\nurl {\nvirtualhost www.example.org\n}\n}",
    "SSL_GET {\nsni_name a.example.org\n}",
    "SMTP_CHECK { }",
    "DNS_CHECK { }",
    "DNS_CHECK {\nname a..b\n}",
    "DNS_CHECK {\ntype DNSKEY\n}",
    "UDP_CHECK {\npayload 00ff\n}",
    "UDP_CHECK {\npayload 61\nrequire_reply\n}",
    "MISC_CHECK {\nmisc_path \"/bin/true 'a b'\"\nmisc_timeout 2\n}",
    "MISC_CHECK {\nmisc_path true\n}",
    "MISC_CHECK { }",
    "PING_CHECK { }",
    "FILE_CHECK { }",
];
