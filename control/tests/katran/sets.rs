//! What was recorded, and the few cases that are written down here.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Sets of clients' packets that Crossdock claims. `gue_origin_icmp_toobig` is not as recorded in Katran itself; health checks are
/// [`health_checks_are_carried_as_katran_carries_them`].
pub(crate) fn claimed(set: &Value) -> bool {
    let name = text(set, "name");
    name != "gue_origin_icmp_toobig" && !name.starts_with("healthcheck")
}

/// The recorded sets; `None` where the file is not there.
pub(crate) fn recorded() -> Option<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/katran-fixtures.json");
    match fs::read(&path) {
        Ok(recorded) => {
            let recorded: Value = serde_json::from_slice(&recorded).unwrap();
            Some(recorded["sets"].as_array().unwrap().clone())
        }
        Err(_) => {
            println!("{} is not there", path.display());
            None
        }
    }
}

/// The set whose packets came before those of this one.
pub(crate) fn before<'s>(set: &Value, sets: &'s [Value]) -> Option<&'s Value> {
    let before = (set["name"] == "gue_udp_migration_2_real2_down").then_some("gue_udp_migration_1")?;
    sets.iter().find(|set| set["name"] == before)
}

/// A client of each family in IP in IP, and one in GUE, put together by hand from the formulas.
pub(crate) fn written_down() -> Value {
    const UDP: &str = "45b80022000700004011fe3e0a0203040a64646430390050000e1b396c6966746564";
    const TCP: &str = "6000000000140640fc000002000000000000000000000005fc000001000000000000000000000001\
                       3039005000000009000000005002200067460000";
    const OUTER_4: &str = "0000deadbeaf020000000000080045b8003600000000400489bfac103a340a000009";
    const OUTER_6: &str = "0000deadbeaf02000000000086dd60000000003c2940010000000000000000000000303900\
                           05fc000000000000000000000000000009";
    const OUTER_GUE: &str = "0000deadbeaf02000000000086dd6b800000002a1140fc002307000000000000000000001337\
                             fc000000000000000000000000000009333d269e002af363";
    let vip = |number: u8, address: &str, proto: u8, real: &str| {
        json!({ "vip_num": number, "address": address, "port": 80, "proto": proto, "cidr_prefix_len": 0,
                "reals": [{ "address": real }] })
    };
    let case = |index: u8, ethertype: &str, packet: &str, outer: &str| {
        json!({ "index": index, "name": "written down", "input_hex": format!("020000000000020000000099{ethertype}{packet}"),
                "expected_action": "XDP_TX", "expected_hex": format!("{outer}{packet}") })
    };
    let (v4, v6) = ("10.0.0.9", "fc00::9");
    json!([
        { "name": "ipip_written_down",
          "config": { "reals": [{ "address": v4 }, { "address": v6 }],
                      "vips": [vip(0, "10.100.100.100", 17, v4), vip(1, "fc00:1::1", 6, v6)] },
          "cases": [case(1, "0800", UDP, OUTER_4), case(2, "86dd", TCP, OUTER_6)] },
        { "name": "gue_written_down",
          "config": { "reals": [{ "address": v6 }], "vips": [vip(0, "10.100.100.100", 17, v6)] },
          "cases": [case(1, "0800", UDP, OUTER_GUE)] },
    ])
}

pub(crate) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

pub(crate) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}
