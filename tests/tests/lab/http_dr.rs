//! HTTP with direct return: the backend owns the VIP on its loopback and answers the client itself.

use testbed::director::{Director, rules};
use testbed::lab::{CLIENT, Lab, VIP, WebServers};

use crate::http_fullnat::download_arrives_whole;

#[test]
fn requests_are_spread_by_weight_and_keep_the_client_address() {
    let lab = Lab::one_arm();
    let servers = WebServers::start(&lab, 80);
    let director = Director::start(&lab, &rules("dr.toml"));
    for _ in 0..90 {
        assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend"));
    }
    assert_eq!(servers.requests(), [50, 30, 10]);
    for line in servers.logs().iter().flatten() {
        let client = line.split(' ').nth(1).expect("the client's endpoint");
        assert!(client.starts_with(&format!("{CLIENT}:")), "{line}");
    }
    director.stop();
}

/// Of a download only the acknowledgements come by: the director sees far fewer bytes than the client receives.
#[test]
fn a_download_returns_past_the_director() {
    let lab = Lab::one_arm();
    let servers = WebServers::start(&lab, 80);
    let director = Director::start(&lab, &rules("dr.toml"));
    download_arrives_whole(&lab, &servers);
    let summary = director.stop();
    let received = summary["ports"][0]["rx_bytes"].as_u64().expect("rx_bytes");
    assert!(received < 20_000_000, "{received} bytes of a download of 100,000,000 came by");
}
