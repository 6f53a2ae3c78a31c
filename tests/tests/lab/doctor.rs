//! `crossdock doctor` on interfaces that are really there: what it finds, what `--fix` mends, and why packets were cut.

use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, binary, replaced, rules};
use testbed::lab::{Lab, VIP};
use testbed::process::until;

/// The findings about one thing, and whether any is a fault: the exit code says that.
fn findings(output: &std::process::Output, check: &str) -> (Vec<Value>, bool) {
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("no JSON ({e}): {}", String::from_utf8_lossy(&output.stderr)));
    let all = answer["findings"].as_array().expect("findings").clone();
    let has_fault = all.iter().any(|finding| finding["verdict"] == "fault");
    assert_eq!(output.status.code(), Some(i32::from(has_fault)), "{answer}");
    (all.into_iter().filter(|finding| finding["check"] == check).collect(), has_fault)
}

fn ask(lab: &Lab, text: &str, option: Option<&str>) -> std::process::Output {
    let path = lab.directory().join("rules.toml");
    let socket = lab.directory().join("nobody.sock");
    std::fs::write(&path, format!("[control]\nsocket = \"{}\"\n{text}", socket.display()))
        .expect("the rules");
    let (binary, path) = (binary().display().to_string(), path.display().to_string());
    let mut argv = vec![binary.as_str(), "doctor", "-c", &path, "--json"];
    argv.extend(option);
    lab.run("director", &argv)
}

/// The interface's MTU is Crossdock's to raise, as the rules say; a word to the far end of a veth it can only give.
#[test]
fn what_is_wrong_with_an_interface_is_found_and_mended() {
    let lab = Lab::two_arms();
    let text = rules("quickstart.toml");
    let (offloads, _) = findings(&ask(&lab, &text, None), "offloads");
    assert!(
        offloads.len() == 2 && offloads.iter().all(|finding| finding["verdict"] == "fine"),
        "{offloads:?}"
    );
    lab.succeed("director", &["ethtool", "-K", "front", "tx", "on"]);
    let long = replaced(&text, "\"af_packet:back\"", "\"af_packet:back\"\nmtu = 4_000");
    let output = ask(&lab, &long, None);
    let (offloads, has_fault) = findings(&output, "offloads");
    assert_eq!(offloads[0]["verdict"], "advice", "{offloads:?}");
    assert!(
        offloads[0]["remedy"].as_str().is_some_and(|text| text.contains("there: ethtool -K")),
        "{offloads:?}"
    );
    let (interfaces, _) = findings(&output, "interface");
    assert!(has_fault && interfaces[0]["remedy"] == "ip link set dev back mtu 4000", "{interfaces:?}");
    let output = ask(&lab, &long, Some("--fix"));
    let (interfaces, has_fault) = findings(&output, "interface");
    assert!(!has_fault, "{interfaces:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ran = answer["ran"].as_array().expect("what it ran");
    assert!(
        ran.iter().any(|ran| ran["command"] == "ip link set dev back mtu 4000"),
        "says what it ran: {ran:?}"
    );
    let shown = lab.succeed("director", &["ip", "link", "show", "back"]);
    assert!(shown.contains("mtu 4000"), "{shown}");
    let offloads = lab.succeed("director", &["ethtool", "-k", "front"]);
    assert!(offloads.contains("tx-checksumming: on"), "not a safe one: it stays as it was: {offloads}");
}

/// A datagram in four fragments: af_packet's kernel side puts it together, and the driver cuts it.
#[test]
fn a_running_director_that_loses_cut_packets_is_explained() {
    let lab = Lab::two_arms();
    let text = replaced(&rules("quickstart.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let director = Director::start(&lab, &text);
    let doctor = || director.command(&["doctor"], &["--json"]).output().expect("crossdock doctor");
    let (cut, has_fault) = findings(&doctor(), "cut_packets");
    assert!(cut.is_empty() && !has_fault, "{cut:?}");
    let send = format!(
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes(5000), (\"{VIP}\", 5353))"
    );
    lab.succeed("client", &["python3", "-c", &send]);
    let count = || director.status()["drops"]["cut_by_driver"].as_u64() > Some(0);
    assert!(until(Duration::from_secs(20), count), "{}", director.status());
    let (cut, has_fault) = findings(&doctor(), "cut_packets");
    assert!(
        has_fault && cut[0]["found"].as_str().is_some_and(|text| text.contains("(ports front, back)")),
        "{cut:?}"
    );
    assert!(
        cut[0]["remedy"].as_str().is_some_and(|text| text.contains("af_xdp") && text.contains("MTU")),
        "{cut:?}"
    );
    director.stop();
}
