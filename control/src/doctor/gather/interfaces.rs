//! Interfaces that the rules name: what they are, and what ethtool says they do to packets.
//!
//! ethtool is asked as a program: its command is what mends a wrong offload, so it must be there anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

use crate::doctor::facts::Interface;
use crate::machine::Machine;
use crate::rules::{KernelDriver, Rules};

/// Interfaces of the kernel's that ports stand on; a TAP is made at start and not there yet.
pub(super) fn interfaces(machine: &Machine, rules: Option<&Rules>) -> BTreeMap<String, Interface> {
    let ports = rules.map(|rules| rules.ports.as_slice()).unwrap_or_default();
    let names = ports.iter().filter_map(|port| match port.device.kernel_interface()? {
        (KernelDriver::Tap, _) => None,
        (_, name) => Some(name),
    });
    let addresses = addresses();
    let found = names.filter_map(|name| {
        let mut interface = interface(machine, name)?;
        interface.offloads = ethtool(&["-k", name]).map(|text| offloads_on(&text));
        interface.peer_offloads =
            interface.peer.as_ref().and_then(|peer| ethtool(&["-k", peer])).map(|text| offloads_on(&text));
        interface.addresses = addresses.get(name).cloned().unwrap_or_default();
        if interface.driver.is_empty() {
            let text = ethtool(&["-i", name]).unwrap_or_default();
            let driver = text.lines().find_map(|line| line.strip_prefix("driver: "));
            interface.driver = driver.unwrap_or_default().to_owned();
        }
        Some((name.to_owned(), interface))
    });
    found.collect()
}

fn interface(machine: &Machine, name: &str) -> Option<Interface> {
    let directory = format!("/sys/class/net/{name}");
    let mtu = machine.number(&format!("{directory}/mtu"))?;
    Some(Interface {
        mtu: u32::try_from(mtu).unwrap_or(u32::MAX),
        // A veth has no device, so no driver here.
        driver: machine.link_name(&format!("{directory}/device/driver")).unwrap_or_default(),
        peer: peer(machine, &directory),
        controller: machine.link_name(&format!("{directory}/master")),
        ..Interface::default()
    })
}

/// Of a pair, the other end; `iflink` is the own index where there is none, and one of another network namespace may be
/// anybody's here, so both must name each other.
fn peer(machine: &Machine, directory: &str) -> Option<String> {
    let own = machine.number(&format!("{directory}/ifindex"))?;
    let other = machine.number(&format!("{directory}/iflink")).filter(|other| *other != own)?;
    let names_us = |name: &String| {
        let number = |file: &str| machine.number(&format!("/sys/class/net/{name}/{file}"));
        number("ifindex") == Some(other) && number("iflink") == Some(own)
    };
    machine.list("/sys/class/net").into_iter().find(names_us)
}

fn addresses() -> BTreeMap<String, Vec<IpNet>> {
    let mut found = BTreeMap::<String, Vec<IpNet>>::new();
    for entry in getifaddrs().into_iter().flatten() {
        let net = || {
            let (address, mask) = (entry.address?, entry.netmask?);
            match (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                (Some(address), Some(mask)) => {
                    IpNet::with_netmask(address.ip().into(), mask.ip().into()).ok()
                }
                _ => {
                    let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
                    let is_own = address.ip().is_unicast_link_local();
                    IpNet::with_netmask(address.ip().into(), mask.ip().into()).ok().filter(|_| !is_own)
                }
            }
        };
        if let Some(net) = net() {
            found.entry(entry.interface_name.clone()).or_default().push(net);
        }
    }
    found
}

fn ethtool(arguments: &[&str]) -> Option<String> {
    let output = Command::new("ethtool").args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// From what `ethtool -k` prints: `tx-checksumming: on`, `large-receive-offload: off [fixed]`.
fn offloads_on(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
    let on = lines.filter(|(_, state)| state.split(' ').next() == Some("on"));
    on.map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::made_up;

    #[test]
    fn offloads_are_read_from_what_ethtool_prints() {
        let text = "Features for eth1:\nrx-checksumming: on\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                    generic-receive-offload: on\nlarge-receive-offload: off [fixed]\n";
        let on = offloads_on(text);
        assert!(on.contains("tx-checksumming") && on.contains("generic-receive-offload"), "{on:?}");
        assert!(!on.contains("large-receive-offload") && !on.contains("tx-checksum-ipv4"), "{on:?}");
    }

    #[test]
    fn an_interface_is_known_with_its_other_end_and_what_it_belongs_to() {
        let (_directory, machine) = made_up(&[
            ("/sys/class/net/front/mtu", "1500\n"),
            ("/sys/class/net/front/ifindex", "4\n"),
            ("/sys/class/net/front/iflink", "5\n"),
            ("/sys/class/net/front/master", "-> ../br0"),
            ("/sys/class/net/far/ifindex", "5"),
            ("/sys/class/net/far/iflink", "4"),
            ("/sys/class/net/other/ifindex", "6"),
            ("/sys/class/net/other/iflink", "6"),
        ]);
        let front = interface(&machine, "front").unwrap();
        assert_eq!((front.mtu, front.peer.as_deref()), (1_500, Some("far")));
        assert_eq!(front.controller.as_deref(), Some("br0"));
        assert!(interface(&machine, "nothing").is_none());
        assert_eq!(peer(&machine, "/sys/class/net/other"), None);
    }
}
