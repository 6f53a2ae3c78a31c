//! A recorded configuration of Katran's as rules.

use std::fmt::Write;

use serde_json::Value;

use crate::sets::{list, text};

/// The MAC that recorded frames are sent to, and that Katran's have as their source.
pub(crate) const STATION: &str = "02:00:00:00:00:00";

/// Katran's default router.
pub(crate) const ROUTER: &str = "00:00:de:ad:be:af";

pub(crate) fn is_gue(set: &str) -> bool {
    set.starts_with("gue") || set == "xdpdecap_gue"
}

/// Rules that say what a set's configuration does.
pub(crate) fn rules(set: &Value) -> String {
    let (name, config) = (text(set, "name"), &set["config"]);
    let mut rules = format!(
        "[[port]]\nname = \"p\"\ndevice = \"null\"\nkernel = true\nmac = \"{STATION}\"\n\
         addresses = [\"10.0.13.37/24\", \"fc00:2307::1337/64\"]\n"
    );
    if let Some(addresses) = decap_addresses(&name) {
        let (kind, port) = if is_gue(&name) { ("gue", "gue_port = 9886\n") } else { ("ipip", "") };
        write!(rules, "[decap]\naddresses = {addresses:?}\nencapsulations = \"{kind}\"\n{port}").unwrap();
    }
    for real in list(config, "reals") {
        let address = text(real, "address");
        write!(rules, "[[neighbour]]\naddress = \"{address}\"\nmac = \"{ROUTER}\"\nport = \"p\"\n").unwrap();
    }
    for vip in list(config, "vips") {
        rules += &service(set, vip);
    }
    rules
}

/// Where Katran's configuration for a set has tunnels end; it is not in the recording, and is read off its packets.
fn decap_addresses(set: &str) -> Option<Vec<&'static str>> {
    match set {
        "gue_xpop_decap" => Some(vec!["fc00:1404::1", "fc00:2307::1337"]),
        "gue_egress_decap" => Some(vec!["fc00:1405::1"]),
        "gue_decap_stats" => Some(vec!["fc00:2307::1337"]),
        "xdpdecap_ipip" | "xdpdecap_gue" => Some(vec!["172.16.100.1", "100::2"]),
        _ => None,
    }
}

/// Where clients of these prefixes go, likewise.
const ROUTES: [(&str, &str); 4] = [
    ("192.168.0.0/17", "fc00::2307:1"),
    ("192.168.100.0/24", "fc00::2307:2"),
    ("fc00:2::/64", "fc00::2307:10"),
    ("fc00:2307::/32", "fc00::2307:4"),
];

fn service(set: &Value, vip: &Value) -> String {
    let (name, address) = (text(set, "name"), text(vip, "address"));
    let is_tcp = vip["proto"] == 6;
    let has = |flag: &str| list(vip, "flag_names").iter().any(|name| name == flag);
    let server_ids = match () {
        () if has("F_QUIC_VIP") => "server_ids = { datagrams = \"mvfst\" }\n",
        () if has("F_UDP_STABLE_ROUTING_VIP") => {
            "server_ids = { datagrams = \"offset\", offset = 1, length = 3 }\n"
        }
        () if is_tcp && name == "ipip_tpr" => "server_ids = { tcp_option = 0xb7 }\n",
        () => "",
    };
    let is_routed = has("F_SRC_ROUTING") && name == "gue_lpm_src";
    let mut service = format!(
        "[[service]]\nname = \"vip{}\"\nlisten = \"{}\"\nmode = \"tunnel\"\nscheduler = \"mh\"\nannounce = \"external\"\n\
         no_backend = \"drop\"\nttl = \"{}\"\n{}{}{server_ids}tunnel = {}\nbackend = [{}]\n",
        vip["vip_num"],
        listen(vip),
        // Katran lowers it where it takes a packet out of a tunnel, and nowhere else.
        if name == "gue_xpop_decap" { "lower" } else { "keep" },
        if is_tcp { "no_flow = \"schedule\"\n" } else { "" },
        if has("F_UDP_FLOW_MIGRATION") { "on_remove = \"move\"\n" } else { "" },
        tunnel(&name),
        backends(set, vip, !server_ids.is_empty(), is_routed).join(", "),
    );
    for (from, backend) in
        ROUTES.iter().filter(|(from, _)| is_routed && from.contains(':') == address.contains(':'))
    {
        write!(service, "[[service.route]]\nfrom = \"{from}\"\nbackend = \"[{backend}]\"\n").unwrap();
    }
    service
}

fn listen(vip: &Value) -> String {
    let address = text(vip, "address");
    let network = match vip["cidr_prefix_len"].as_u64().unwrap() {
        0 => address.clone(),
        len => format!("{address}/{len}"),
    };
    let vips = if address.contains(':') { format!("[{network}]") } else { network };
    let l4_port = match vip["port"].as_u64().unwrap() {
        0 => "*".to_owned(),
        l4_port => l4_port.to_string(),
    };
    format!("{} {vips}:{l4_port}", if vip["proto"] == 6 { "tcp" } else { "udp" })
}

fn tunnel(set: &str) -> &'static str {
    if is_gue(set) {
        "{ encapsulation = \"gue\", port = 9886, dont_fragment = false, udp_checksum = true }"
    } else {
        "{ source = \"per-flow\", dont_fragment = false }"
    }
}

/// The VIP's reals. Katran's server IDs and routes lead to any real there is: here a backend of the service that gets
/// nothing, or next to nothing, by itself.
fn backends(set: &Value, vip: &Value, has_ids: bool, is_routed: bool) -> Vec<String> {
    let own: Vec<_> = list(vip, "reals").iter().map(|real| text(real, "address")).collect();
    let all = list(&set["config"], "reals").iter().map(|real| text(real, "address"));
    let (mut backends, is_v4_alone) = (Vec::new(), text(set, "name").starts_with("gue_udp_migration"));
    for address in all.filter(|address| own.contains(address) || has_ids || is_routed) {
        let ids = set["config"]["server_ids"].as_object().into_iter().flatten();
        let ids: Vec<_> = ids.filter(|(_, real)| **real == *address).map(|(id, _)| id.as_str()).collect();
        let id = if has_ids { format!(", server_id = [{}]", ids.join(", ")) } else { String::new() };
        let weight = match (own.contains(&address), is_routed) {
            (true, _) => 1_000,
            (false, is_routed) => u32::from(is_routed),
        };
        // Where a VIP has reals of both families, and Katran's ring chose one of the first: the recording says nothing of the other.
        let is_left_out = is_v4_alone && own.contains(&"10.0.0.2".to_owned()) && address != "10.0.0.2";
        let is_left_out =
            is_left_out || is_v4_alone && !own.contains(&"10.0.0.2".to_owned()) && !address.contains(':');
        if !is_left_out {
            backends.push(format!("{{ address = \"{}\", weight = {weight}{id} }}", quoted(&address)));
        }
    }
    backends
}

/// An address as an endpoint is written.
fn quoted(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
