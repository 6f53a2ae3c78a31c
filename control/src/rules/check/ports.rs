//! `[[port]]`: each by itself, then against the others.

use std::collections::HashSet;
use std::net::IpAddr;

use dataplane::index::PORTS_MAX;
use dataplane::wire::VlanTags;
use dataplane::wire::vlan::VID_MAX;
use ipnet::IpNet;
use toml::Spanned;

use super::{each, no_duplicates, no_more_than, optional, or_default, required};
use crate::rules::checked::{Device, MTU_MIN, MTU_MIN_IPV6, MacAddress, Port};
use crate::rules::device::{KernelDriver, interface_claim, twin_ifname};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{PortTable, VlanField};
use crate::rules::values::{interface_address, local_addresses, mac, name, whole};

/// An interface name has 15 bytes; three are left for a prefix.
const NAME_BYTES_MAX: usize = 12;

/// All ports, and what is known about them when some could not be read.
pub(super) struct Ports {
    pub(super) list: Vec<PortDraft>,
    /// Every `[[port]]`, its `name` and its `kernel` were read: only then is something missing really
    /// missing.
    pub(super) complete: bool,
    /// Some port has a twin.
    pub(super) any_kernel: bool,
    /// All that ports say under `local_addresses` was read.
    local_addresses_complete: bool,
}

impl Ports {
    /// Whether some port has local addresses of IPv6, or of IPv4, or may have.
    pub(super) fn may_have_local_addresses(&self, is_ipv6: bool) -> bool {
        let mut local_addresses = self.list.iter().flat_map(|port| &port.local_addresses);
        let of_family = |net: &Spanned<IpNet>| net.get_ref().addr().is_ipv6() == is_ipv6;
        !self.local_addresses_complete || local_addresses.any(of_family)
    }

    /// Whether the kernel has `address` on a port's twin.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.list.iter().flat_map(|port| &port.addresses).any(|net| net.get_ref().addr() == address)
    }

    /// Whether the kernel has an address of a family on any port's twin.
    pub(super) fn has_address_of_family(&self, is_v6: bool) -> bool {
        let mut addresses = self.list.iter().flat_map(|port| &port.addresses);
        addresses.any(|net| net.get_ref().addr().is_ipv6() == is_v6)
    }
}

/// A port of which some values may have been wrong.
pub(super) struct PortDraft {
    pub(super) name: Option<Spanned<String>>,
    pub(super) addresses: Vec<Spanned<IpNet>>,
    pub(super) local_addresses: Vec<Spanned<IpNet>>,
    device: Option<Spanned<Device>>,
    kernel: Option<bool>,
    mac: Option<MacAddress>,
    vlan: Option<VlanTags>,
    mtu: Option<u16>,
    checksum_offload: Option<bool>,
    promiscuous: Option<bool>,
}

impl PortDraft {
    pub(super) fn finish(self) -> Option<Port> {
        Some(Port {
            name: self.name?.into_inner(),
            device: self.device?.into_inner(),
            kernel: self.kernel?,
            addresses: self.addresses.into_iter().map(Spanned::into_inner).collect(),
            local_addresses: self.local_addresses.into_iter().map(Spanned::into_inner).collect(),
            mac: self.mac,
            vlan: self.vlan,
            mtu: self.mtu,
            checksum_offload: self.checksum_offload?,
            promiscuous: self.promiscuous?,
        })
    }
}

pub(super) fn check(field: &Field<Vec<PortTable>>, problems: &mut Problems) -> Ports {
    let tables = field.value().map_or(&[][..], |tables| tables.get_ref());
    if matches!(field, Field::Absent) || matches!(field, Field::Value(list) if list.get_ref().is_empty()) {
        problems.push(Problem::new("there is no [[port]]").help(
            "a load balancer needs at least one: [[port]] name = \"front\", device = \"af_packet:eth1\"",
        ));
    }
    let list: Vec<PortDraft> = tables.iter().map(|table| port(table, problems)).collect();
    no_duplicates(
        list.iter().filter_map(|port| port.name.as_ref()).map(|name| (name.get_ref(), name.span())),
        problems,
        |name| Problem::new(format!("two ports are named {name:?}")).help("a port's name is its own"),
    );
    no_more_than(PORTS_MAX, "ports", list.iter().filter_map(|port| port.name.as_ref()), problems);
    let devices = list.iter().filter_map(|port| port.device.as_ref());
    let claims =
        devices.flat_map(|device| device.get_ref().claims().into_iter().map(|claim| (claim, device.span())));
    let with_twins = list.iter().filter(|port| port.kernel == Some(true));
    // Of two ports with one name that was said already.
    let mut seen = HashSet::new();
    let twins = with_twins.filter_map(|port| port.name.as_ref()).filter(|name| seen.insert(name.get_ref()));
    let twin_claims = twins.map(|name| (interface_claim(&twin_ifname(name.get_ref())), name.span()));
    no_duplicates(claims.chain(twin_claims), problems, |claim| {
        let problem = Problem::new(format!("two ports use {claim}"));
        problem.help(if claim.starts_with(&interface_claim(&twin_ifname(""))) {
            "the kernel twin of a port is called `xd-` and the port's name"
        } else {
            "a device belongs to one port"
        })
    });
    Ports {
        complete: !tables.is_empty() && list.iter().all(|port| port.name.is_some() && port.kernel.is_some()),
        any_kernel: list.iter().any(|port| port.kernel == Some(true)),
        local_addresses_complete: tables.iter().zip(&list).all(|(table, port)| {
            match &table.local_addresses {
                Field::Absent => true,
                Field::Unreadable => false,
                Field::Value(written) => written.get_ref().len() == port.local_addresses.len(),
            }
        }),
        list,
    }
}

fn port(table: &PortTable, problems: &mut Problems) -> PortDraft {
    let place = &table.place;
    let kernel = or_default(&table.kernel, false, problems, |&kernel| Ok(kernel));
    if kernel == Some(false)
        && let Field::Value(addresses) = &table.addresses
        && !addresses.get_ref().is_empty()
    {
        problems.push(
            Problem::new("`addresses` without a kernel twin")
                .at(addresses.span())
                .label("nobody would have them")
                .help("set `kernel = true` on this port, or leave `addresses` out"),
        );
    }
    let name = required(&table.name, (place, "name"), problems, |text| name(text, NAME_BYTES_MAX));
    let device = required(&table.device, (place, "device"), problems, |text| Device::parse(text));
    PortDraft {
        name,
        kernel,
        addresses: each(&table.addresses, problems, |text| interface_address(text)),
        local_addresses: each(&table.local_addresses, problems, |text| local_addresses(text)),
        mac: optional(&table.mac, problems, |text| changeable_mac(text, device.as_ref()))
            .map(Spanned::into_inner),
        vlan: vlan(&table.vlan, problems),
        mtu: mtu(table, problems),
        checksum_offload: or_default(&table.checksum_offload, true, problems, |&offload| Ok(offload)),
        promiscuous: or_default(&table.promiscuous, false, problems, |&promiscuous| Ok(promiscuous)),
        device,
    }
}

/// With IPv6 addresses no less than every link has that carries IPv6.
fn mtu(table: &PortTable, problems: &mut Problems) -> Option<u16> {
    let addresses = table.addresses.value().map_or(&[][..], |list| list.get_ref());
    let is_ipv6 = addresses.iter().any(|address| address.get_ref().contains(':'));
    let (what, least) =
        if is_ipv6 { ("an MTU of a port with IPv6 addresses", MTU_MIN_IPV6) } else { ("an MTU", MTU_MIN) };
    let mtu = optional(&table.mtu, problems, |&mtu| whole(what, mtu, least.into(), u16::MAX.into()));
    mtu.map(Spanned::into_inner)
}

/// `100`, `[200, 100]`; or 0, which is no VLAN.
fn vlan(field: &VlanField, problems: &mut Problems) -> Option<VlanTags> {
    let list = match field {
        VlanField::One(vid) => {
            let vid = optional(vid, problems, |&vid| whole("a VLAN", vid, 0, VID_MAX.into()))?.into_inner();
            return Some(if vid == 0 { VlanTags::NONE } else { VlanTags::single(vid) });
        }
        VlanField::List(list) => list,
    };
    let vids: Vec<Spanned<u16>> =
        each(list, problems, |&vid| whole("a VLAN within another", vid, 1, VID_MAX.into()));
    let written = list.value()?;
    match vids.as_slice() {
        [outer, inner] if written.get_ref().len() == 2 => {
            Some(VlanTags::double(*outer.get_ref(), *inner.get_ref()))
        }
        vids => {
            // Of items that are no VLAN that was said already.
            if vids.len() == written.get_ref().len() {
                let problem = Problem::new("`vlan` is a list of other than two").help(
                    "allowed: one VLAN, such as 100, or the outer and the inner one, such as [200, 100]",
                );
                problems.push(problem.at(written.span()));
            }
            None
        }
    }
}

/// `net_af_packet` would change the interface's own MAC and leave it so; `net_af_xdp` cannot change any.
fn changeable_mac(text: &str, device: Option<&Spanned<Device>>) -> Result<MacAddress, Problem> {
    let mac = mac(text)?;
    match device.and_then(|device| device.get_ref().kernel_interface()) {
        Some((KernelDriver::AfPacket | KernelDriver::AfXdp, interface)) => {
            Err(Problem::new("`mac` on a port that uses the MAC of its interface")
                .label(format!("the port has the MAC of {interface:?}"))
                .help(format!(
                    "leave `mac` out, and before the start: ip link set dev {interface} address {mac}"
                )))
        }
        _ => Ok(mac),
    }
}
