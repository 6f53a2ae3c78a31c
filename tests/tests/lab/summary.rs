//! The summary at the end counts what really went by: compared with the kernel's counters and nginx's logs.

use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a count is missing: {value}"))
}

fn total(value: &Value) -> u64 {
    value.as_object().expect("an object of counters").values().map(number).sum()
}

#[test]
fn the_summary_balances() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let (_, sent_before) = lab.interface_packets("client", "eth0");
    let director = Director::start(&lab, &rules("quickstart.toml"));
    for _ in 0..18 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    // curl is gone before the last acknowledgement has arrived; whoever stops now misses it.
    let mut sent = 0;
    let all_arrived = || {
        sent = lab.interface_packets("client", "eth0").1 - sent_before;
        director.try_status().is_some_and(|status| number(&status["ports"][0]["rx_packets"]) >= sent)
    };
    assert!(until(Duration::from_secs(30), all_arrived), "the client has sent {sent} packets");
    let summary = director.stop();
    assert_eq!(servers.requests(), [10, 6, 2]);
    assert!(summary["seconds"].as_f64().is_some_and(|s| s > 0.0), "{summary}");
    // On the client's cable nobody else speaks.
    let front = &summary["ports"][0];
    assert_eq!(front["name"], "front");
    assert!(number(&front["rx_packets"]) >= sent, "{summary}");
    let service = &summary["services"][0];
    let backends = service["backends"].as_array().expect("backends");
    assert_eq!(backends.len(), 3);
    let by_backend: Vec<u64> = backends.iter().map(|b| number(&b["packets"])).collect();
    assert_eq!(number(&service["packets"]), by_backend.iter().sum::<u64>(), "{summary}");
    // A short GET is the same packets every time, give or take a merged acknowledgement.
    assert!(by_backend[0] > by_backend[1] && by_backend[1] > by_backend[2] && by_backend[2] > 0, "{summary}");
    let connections: Vec<u64> = backends.iter().map(|b| number(&b["connections"])).collect();
    assert_eq!(connections, [10, 6, 2]);
    assert_eq!(
        number(&service["packets"]),
        number(&summary["packets"]["forwarded"]),
        "one service only: {summary}"
    );
    assert_eq!(total(&summary["drops"]), 0, "{summary}");
    // Nothing appears and nothing vanishes between the ports and the twins.
    let ports = summary["ports"].as_array().expect("ports");
    let (received, sent): (Vec<_>, Vec<_>) =
        ports.iter().map(|p| (number(&p["rx_packets"]), number(&p["tx_packets"]))).unzip();
    let packets = |name: &str| number(&summary["packets"][name]);
    assert_eq!(received.iter().sum::<u64>(), packets("forwarded") + packets("punted"), "{summary}");
    assert_eq!(sent.iter().sum::<u64>(), packets("forwarded") + packets("from_slow_path"), "{summary}");
}
