//! The same packets through the binary, as captures.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::crossdock;
use crate::director::{Director, Fate};
use crate::rules::rules;
use crate::sets::{before, claimed, hex, list, recorded, text};

/// A capture of the inputs of a set, a millisecond apart.
fn capture(set: &Value) -> Vec<u8> {
    let mut capture = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for (number, case) in list(set, "cases").iter().enumerate() {
        let frame = hex(&text(case, "input_hex"));
        let len = frame.len() as u32;
        capture.extend([1_700_000_000, number as u32 * 1_000, len, len].map(u32::to_le_bytes).concat());
        capture.extend(frame);
    }
    capture
}

/// The frames of a capture, by the case whose packet they came of.
fn frames(capture: &[u8]) -> BTreeMap<usize, Vec<u8>> {
    let mut rest = &capture[24..];
    let mut frames = BTreeMap::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap()) as usize;
        let (frame, further) = behind.split_at(number(8));
        // Nanoseconds, as replay writes them.
        assert!(frames.insert(number(4) / 1_000_000, frame.to_vec()).is_none(), "one packet in, one out");
        rest = further;
    }
    frames
}

/// The sets as captures through the binary: what it sends is, packet by packet, what is compared with the recordings above. Which packets the kernel gets
/// a capture does not tell, but how many; and rules do not change within one, so a set that comes after another is left out.
#[test]
fn crossdock_replay_sends_the_same_packets() {
    let Some(sets) = recorded() else { return };
    let mut compared = 0;
    for set in sets.iter().filter(|set| claimed(set) && before(set, &sets).is_none()) {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        // The port's MTU is the device's, which replay has none of.
        let rules = rules(set).replacen("kernel = true\n", "kernel = true\nmtu = 1500\n", 1);
        fs::write(file("rules.toml"), &rules).unwrap();
        fs::write(file("in.pcap"), capture(set)).unwrap();
        let counters = crossdock::replay_json(&file("rules.toml"), &file("in.pcap"), &file("out.pcap"));
        let mut director = Director::new(&rules);
        let (mut sent, mut punted) = (BTreeMap::new(), 0);
        for (number, case) in list(set, "cases").iter().enumerate() {
            match director.pass(&hex(&text(case, "input_hex"))) {
                Fate::Sent(frame) => drop(sent.insert(number, frame)),
                Fate::Punted(_) => punted += 1,
                Fate::Dropped => {}
            }
            compared += 1;
        }
        assert_eq!(frames(&fs::read(file("out.pcap")).unwrap()), sent, "{}", set["name"]);
        assert_eq!(counters["packets"]["punted"], punted, "{}", set["name"]);
    }
    assert_eq!(compared, 157);
}
