//! What changes from one set of rules to the next: pure, no device, no clock. Applying it is somebody else's
//! business.
//!
//! A service is the same when what it listens on first has the same protocol, VIP and l4 port; a backend of it when it
//! has the same address and l4 port. So renaming a service keeps its connections, and moving it to another VIP
//! does not.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::checked::{Backend, Port, Rules, Service};
use super::words;

/// From old rules to new ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Services that only the new rules have: indices into the new [`Rules::services`].
    pub services_added: Vec<usize>,
    /// Services that only the old rules have: indices into the old [`Rules::services`].
    pub services_removed: Vec<usize>,
    /// Services that both have and that differ.
    pub services_changed: Vec<ServiceChange>,
    /// `[[neighbour]]` differs.
    pub neighbours_changed: bool,
    /// `[slow_path]` differs.
    pub slow_path_changed: bool,
    /// `[decap]` differs.
    pub decap_changed: bool,
    /// `[checks]` differs.
    pub checks_changed: bool,
    /// Certificates of the API on TCP differ.
    pub certificates_changed: bool,
    /// What cannot change while the process runs, each in one sentence. Not empty: the new rules cannot be
    /// applied.
    pub needs_restart: Vec<String>,
    /// For people; see `Display`.
    lines: Vec<String>,
}

/// A service that stays and is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChange {
    /// Index into the old [`Rules::services`].
    pub old: usize,
    /// Index into the new [`Rules::services`].
    pub new: usize,
    /// Something that is not about one backend differs.
    pub settings_changed: bool,
    /// Indices into the new service's backends.
    pub backends_added: Vec<usize>,
    /// Indices into the old service's backends.
    pub backends_removed: Vec<usize>,
    /// Backends that stay and are not what they were.
    pub backends_changed: Vec<BackendChange>,
}

/// A backend that stays with other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendChange {
    /// Index into the old service's backends.
    pub old: usize,
    /// Index into the new service's backends.
    pub new: usize,
}

impl Diff {
    /// What has to happen so that `new` is in force where `old` is.
    pub fn between(old: &Rules, new: &Rules) -> Self {
        let mut diff = Self {
            neighbours_changed: old.neighbours != new.neighbours,
            slow_path_changed: old.slow_path != new.slow_path,
            decap_changed: old.decap != new.decap,
            checks_changed: old.checks != new.checks,
            certificates_changed: old.control.remote != new.control.remote,
            needs_restart: fixed_changes(old, new),
            ..Self::default()
        };
        diff.compare_services(old, new);
        if diff.neighbours_changed {
            diff.lines.push("~ neighbours".to_owned());
        }
        if diff.slow_path_changed {
            diff.lines.push("~ slow path rates".to_owned());
        }
        if diff.decap_changed {
            diff.lines.push("~ tunnels that end here".to_owned());
        }
        if diff.checks_changed {
            diff.lines.push("~ check addresses".to_owned());
        }
        if diff.certificates_changed && diff.needs_restart.is_empty() {
            diff.lines.push("~ certificates of the API".to_owned());
        }
        diff
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn compare_services(&mut self, old: &Rules, new: &Rules) {
        let (mut kept, mut others) = (vec![false; old.services.len()], Vec::new());
        // Not even looked up: of a change at run time nearly all services know nothing.
        for (index, service) in new.services.iter().enumerate() {
            match old.services.get(index) {
                Some(before) if Arc::ptr_eq(before, service) => kept[index] = true,
                _ => others.push((index, service)),
            }
        }
        let left = old.services.iter().enumerate().filter(|(index, _)| !kept[*index]);
        let old_index: HashMap<_, _> = left.map(|(index, service)| (service.key(), index)).collect();
        for (new_index, service) in others {
            let Some(&old_index) = old_index.get(&service.key()) else {
                self.services_added.push(new_index);
                self.lines.push(format!("+ service {}", described(service)));
                continue;
            };
            kept[old_index] = true;
            // Nearly all, at most reloads: what the words of its settings would say costs more.
            if old.services[old_index] == *service {
                continue;
            }
            let change = ServiceChange::between((old_index, &old.services[old_index]), (new_index, service));
            if let Some(change) = change {
                self.lines.extend(change.lines(&old.services[old_index], service));
                self.services_changed.push(change);
            }
        }
        self.services_removed = (0..kept.len()).filter(|&index| !kept[index]).collect();
        self.lines.extend(
            self.services_removed.iter().map(|&i| format!("- service {}", described(&old.services[i]))),
        );
    }
}

/// One change a line: `+` added, `-` removed, `~` changed, `!` needs a restart.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.needs_restart.iter().try_for_each(|line| writeln!(f, "! {line}"))
    }
}

impl ServiceChange {
    fn between((old_index, old): (usize, &Service), (new_index, new): (usize, &Service)) -> Option<Self> {
        let mut change = Self {
            old: old_index,
            new: new_index,
            settings_changed: words::settings(old) != words::settings(new),
            backends_added: Vec::new(),
            backends_removed: Vec::new(),
            backends_changed: Vec::new(),
        };
        change.compare_backends(&old.backends, &new.backends);
        let same = !change.settings_changed
            && change.backends_added.is_empty()
            && change.backends_removed.is_empty()
            && change.backends_changed.is_empty();
        (!same).then_some(change)
    }

    fn compare_backends(&mut self, old: &[Backend], new: &[Backend]) {
        let old_index: HashMap<_, _> =
            old.iter().enumerate().map(|(i, backend)| (backend.endpoint, i)).collect();
        let mut kept = vec![false; old.len()];
        for (new_index, backend) in new.iter().enumerate() {
            match old_index.get(&backend.endpoint) {
                None => self.backends_added.push(new_index),
                Some(&old_index) => {
                    kept[old_index] = true;
                    if old[old_index] != *backend {
                        self.backends_changed.push(BackendChange { old: old_index, new: new_index });
                    }
                }
            }
        }
        self.backends_removed = (0..kept.len()).filter(|&index| !kept[index]).collect();
    }

    fn lines(&self, old: &Service, new: &Service) -> Vec<String> {
        let name = &new.name;
        let what = format!("~ service {name}: ");
        let mut lines = changes(&what, &words::settings(old), &words::settings(new));
        let added = self.backends_added.iter().map(|&i| &new.backends[i]);
        lines.extend(added.map(|b| format!("+ service {name}: backend {} weight {}", b.endpoint, b.weight)));
        let removed = self.backends_removed.iter().map(|&i| &old.backends[i]);
        lines.extend(removed.map(|b| format!("- service {name}: backend {}", b.endpoint)));
        for change in &self.backends_changed {
            let (before, after) = (&old.backends[change.old], &new.backends[change.new]);
            let what = format!("~ service {name}: backend {} ", after.endpoint);
            lines.extend(changes(&what, &words::backend_settings(before), &words::backend_settings(after)));
        }
        lines
    }
}

/// A line for each setting that differs; both have the same settings in the same order.
fn changes(what: &str, before: &words::Settings, after: &words::Settings) -> Vec<String> {
    let pairs = before.iter().zip(after).filter(|((_, before), (_, after))| before != after);
    pairs.map(|((setting, before), (_, after))| format!("{what}{setting} {before} -> {after}")).collect()
}

fn described(service: &Service) -> String {
    format!("{} {}", service.name, service.listens_text())
}

/// Differences in what is fixed at start: devices, their queues and addresses, threads, memory, the socket.
fn fixed_changes(old: &Rules, new: &Rules) -> Vec<String> {
    let mut changes = Vec::new();
    let mut fixed = |what: String, differs: bool| {
        if differs {
            changes.push(format!("{what} changed: restart needed"));
        }
    };
    fixed("[dataplane]: workers".into(), old.dataplane.workers != new.dataplane.workers);
    fixed("[dataplane]: memory".into(), old.dataplane.memory != new.dataplane.memory);
    fixed("[dataplane]: max_flows".into(), old.dataplane.max_flows != new.dataplane.max_flows);
    let (old_fragments, new_fragments) = (old.dataplane.fragments, new.dataplane.fragments);
    fixed("[dataplane]: fragments".into(), old_fragments.datagrams != new_fragments.datagrams);
    fixed("[dataplane]: fragment_timeout".into(), old_fragments.timeout_ms != new_fragments.timeout_ms);
    fixed("[dataplane]: idle".into(), old.dataplane.idle != new.dataplane.idle);
    fixed("[control]: socket".into(), old.control.socket != new.control.socket);
    fixed("[control]: group".into(), old.control.group != new.control.group);
    fixed("[control]: metrics".into(), old.control.metrics != new.control.metrics);
    let address = |rules: &Rules| rules.control.remote.as_ref().map(|remote| remote.address);
    fixed("[control]: listen".into(), address(old) != address(new));
    changes.extend(port_changes(&old.ports, &new.ports));
    changes
}

fn port_changes(old: &[Port], new: &[Port]) -> Vec<String> {
    let mut changes = Vec::new();
    for port in new {
        let Some(before) = old.iter().find(|before| before.name == port.name) else {
            changes.push(format!("[[port]] {}: added: restart needed", port.name));
            continue;
        };
        let mut fixed = |what: &str, differs: bool| {
            if differs {
                changes.push(format!("[[port]] {}: {what} changed: restart needed", port.name));
            }
        };
        fixed("device", before.device != port.device);
        fixed("kernel", before.kernel != port.kernel);
        fixed("addresses", before.addresses != port.addresses);
        fixed("local_addresses", before.local_addresses != port.local_addresses);
        fixed("mac", before.mac != port.mac);
        fixed("vlan", before.vlan != port.vlan);
        fixed("mtu", before.mtu != port.mtu);
        fixed("checksum_offload", before.checksum_offload != port.checksum_offload);
        fixed("promiscuous", before.promiscuous != port.promiscuous);
    }
    let gone = old.iter().filter(|before| !new.iter().any(|port| port.name == before.name));
    changes.extend(gone.map(|port| format!("[[port]] {}: removed: restart needed", port.name)));
    let order = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    if changes.is_empty() && order(old) != order(new) {
        changes.push("[[port]]: their order changed: restart needed".to_owned());
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
[[port]]
name = "front"
device = "af_packet:eth0"
kernel = true
addresses = ["192.0.2.5/24"]
local_addresses = ["192.0.2.64/28"]

[[service]]
name = "web"
listen = "tcp 203.0.113.10:80"
mode = "fullnat"
backend = [{ address = "10.0.0.11", weight = 5 }, { address = "10.0.0.12" }, { address = "10.0.0.13" }]

[[service]]
name = "dns"
listen = "udp 203.0.113.10:53"
mode = "dr"
"#;

    fn rules(text: &str) -> Rules {
        Rules::parse("test", text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()))
    }

    fn between(new: &str) -> Diff {
        Diff::between(&rules(OLD), &rules(new))
    }

    #[test]
    fn the_same_rules_differ_in_nothing() {
        let diff = between(OLD);
        assert!(diff.is_empty());
        assert_eq!(diff.to_string(), "");
    }

    #[test]
    fn backends_come_and_go_and_change_their_weight() {
        let diff = between(&OLD.replace(
            r#"{ address = "10.0.0.11", weight = 5 }, { address = "10.0.0.12" }"#,
            r#"{ address = "10.0.0.14" }, { address = "10.0.0.11", weight = 0 }"#,
        ));
        let change = ServiceChange {
            old: 0,
            new: 0,
            settings_changed: false,
            backends_added: vec![0],
            backends_removed: vec![1],
            backends_changed: vec![BackendChange { old: 0, new: 1 }],
        };
        assert_eq!(diff.services_changed, [change]);
        assert!(diff.needs_restart.is_empty() && !diff.is_empty());
        assert_eq!(
            diff.to_string(),
            "+ service web: backend 10.0.0.14:80 weight 1\n\
             - service web: backend 10.0.0.12:80\n\
             ~ service web: backend 10.0.0.11:80 weight 5 -> 0\n"
        );
    }

    #[test]
    fn a_service_is_where_it_listens_and_not_what_it_is_called() {
        let renamed = between(&OLD.replace(r#""web""#, r#""www""#));
        assert!(renamed.services_added.is_empty() && renamed.services_removed.is_empty());
        assert!(renamed.services_changed[0].settings_changed);
        assert_eq!(renamed.to_string(), "~ service www: name web -> www\n");

        let moved = between(&OLD.replace("10:80", "11:80"));
        assert_eq!((&moved.services_added[..], &moved.services_removed[..]), (&[0][..], &[0][..]));
        assert!(moved.services_changed.is_empty());
        assert_eq!(
            moved.to_string(),
            "+ service web tcp 203.0.113.11:80\n- service web tcp 203.0.113.10:80\n"
        );
    }

    #[test]
    fn order_alone_changes_nothing() {
        let (ports, services) = OLD.split_once("[[service]]").unwrap();
        let (web, dns) = services.split_once("[[service]]").unwrap();
        assert!(between(&format!("{ports}[[service]]{dns}[[service]]{web}")).is_empty());
    }

    #[test]
    fn settings_neighbours_and_rates_change_while_running() {
        let diff = between(
            &(OLD.replace(r#"mode = "dr""#, "mode = \"dr\"\nscheduler = \"mh\"")
                + "[[neighbour]]\naddress = \"10.0.0.11\"\nmac = \"02:00:00:00:00:0b\"\nport = \"front\"\n\
                   [slow_path]\narp = 5\n"),
        );
        assert!(diff.neighbours_changed && diff.slow_path_changed && diff.needs_restart.is_empty());
        assert_eq!(diff.to_string(), "~ service dns: scheduler wrr -> mh\n~ neighbours\n~ slow path rates\n");

        let hashed = OLD.replace(r#"mode = "dr""#, "mode = \"dr\"\nscheduler = \"sh\"");
        let flagged = hashed.replace(r#""sh""#, "\"sh\"\nhash = \"ipvs-port\"\nfallback = false");
        assert_eq!(
            Diff::between(&rules(&hashed), &rules(&flagged)).to_string(),
            "~ service dns: scheduler sh -> sh (hash ipvs-port, no fallback)\n"
        );
    }

    #[test]
    fn what_is_fixed_at_start_needs_a_restart() {
        for (from, to, sentence) in [
            ("af_packet:eth0", "af_xdp:eth0", "[[port]] front: device changed: restart needed"),
            ("192.0.2.5/24", "192.0.2.6/24", "[[port]] front: addresses changed: restart needed"),
            ("192.0.2.64/28", "192.0.2.96/28", "[[port]] front: local_addresses changed: restart needed"),
        ] {
            assert_eq!(between(&OLD.replace(from, to)).needs_restart, [sentence]);
        }
        let renamed = between(&OLD.replace("\"front\"", "\"back\""));
        assert_eq!(
            renamed.needs_restart,
            ["[[port]] back: added: restart needed", "[[port]] front: removed: restart needed"]
        );
        let more = between(&(OLD.to_owned() + "[dataplane]\nworkers = [1]\n[control]\nsocket = \"/x\"\n"));
        assert_eq!(
            more.needs_restart,
            ["[dataplane]: workers changed: restart needed", "[control]: socket changed: restart needed"]
        );
        assert!(more.to_string().starts_with("! [dataplane]: workers"));
    }
}
