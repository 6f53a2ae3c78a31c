//! Slow start: a backend that comes back gets hardly a connection at first, and its share when its time is up.

use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

/// Long enough that what is fetched first is fetched in its first half, also on a busy machine.
const SLOW_START: Duration = Duration::from_secs(12);

const LAST: &str = "address = \"10.0.0.13:8080\"\n  weight  = 1";

fn last_backend(status: &Value) -> &Value {
    &status["services"][0]["backends"][2]
}

fn weight_in_force(director: &Director) -> f64 {
    last_backend(&director.status())["weight_in_force"].as_f64().expect("a number")
}

#[test]
fn a_backend_that_comes_back_starts_slowly() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let slow = format!("scheduler = \"wrr\"\nslow_start = \"{}s\"", SLOW_START.as_secs());
    let text = replaced(&rules("quickstart.toml"), "scheduler = \"wrr\"", &slow);
    let drained = replaced(&text, LAST, &format!("{LAST}\n  state   = \"drain\""));
    let director = Director::start(&lab, &drained);
    let status = director.status();
    assert_eq!(last_backend(&status)["state"], "drain");
    assert_eq!(last_backend(&status)["weight_in_force"], 0.0);

    director.reload(&text);
    let url = format!("http://{VIP}:80/");
    let answers: Vec<_> = (0..18).map(|_| lab.fetch(&url)).collect();
    let at_first = weight_in_force(&director);
    assert!(at_first < 0.7, "the machine is too slow for this test: the weight is {at_first} already");
    // The pass that was under way may end with it; the next hundreds of connections are the others'.
    let early = servers.requests()[2];
    assert!(early <= 1, "{early} of {answers:?}");

    let mut seen = vec![at_first];
    let whole = until(SLOW_START * 2, || {
        seen.push(weight_in_force(&director));
        seen.last() == Some(&1.0)
    });
    assert!(whole && seen.is_sorted(), "{seen:?}");
    assert!(seen.iter().any(|weight| *weight > at_first && *weight < 1.0), "it rises in steps: {seen:?}");

    let revision = director.status()["revision"].clone();
    for _ in 0..18 {
        lab.fetch(&url);
    }
    let late = servers.requests()[2] - early;
    assert!((1..=3).contains(&late), "{late} of 18, where its share is 2");
    assert_eq!(director.status()["revision"], revision, "nothing is left to be told");
    director.stop();
}
