//! The same over AF_XDP sockets in place of packet sockets.

use testbed::director::{Director, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};

use crate::http_fullnat::download_arrives_whole;

#[test]
fn fullnat_over_af_xdp() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &replaced(&rules("quickstart.toml"), "af_packet:", "af_xdp:"));
    for _ in 0..18 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    assert_eq!(servers.requests(), [10, 6, 2]);
    download_arrives_whole(&lab, &servers);
    director.stop();
}

#[test]
fn dr_over_af_xdp() {
    let lab = Lab::one_arm();
    let servers = WebServers::start(&lab, 80);
    let director = Director::start(&lab, &replaced(&rules("dr.toml"), "af_packet:", "af_xdp:"));
    for _ in 0..18 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    assert_eq!(servers.requests(), [10, 6, 2]);
    director.stop();
}
