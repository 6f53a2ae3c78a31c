//! What the rules ask of the kernel: interfaces hidden from it, twins with addresses, next hops read from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use dataplane::index::PortIndex;
use dataplane::prefix::Prefix;
use dataplane::wire::ethernet::MacAddress;
use futures_util::future::select_all;
use ipnet::IpNet;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::kernel::{
    self, CheckRoute, CheckRoutes, KernelError, Neighbours, NextHops as KernelNextHops, Refresh, Shield,
    Twin, TwinSettings, Wanted, XdpGuard, xdp,
};
use crate::launch::PortHandle;
use crate::rules::build::{NextHop, NextHops};
use crate::rules::{Announce, KernelDriver, Port, Rules};

/// What must be in place before the ports open and go after they close.
#[derive(Debug, Default)]
pub(super) struct Guards {
    /// By interface.
    shields: Vec<(String, Shield)>,
    xdp: Vec<XdpGuard>,
}

impl Guards {
    /// Hides `af_packet` interfaces from the kernel, watches over the XDP programs of `af_xdp` ones, brings both up;
    /// those that raw devargs name included.
    pub(super) async fn install(rules: &Rules) -> anyhow::Result<Self> {
        let mut guards = Self::default();
        for port in &rules.ports {
            let what = || format!("[[port]] {}: device \"{}\"", port.name, port.device);
            match port.device.kernel_interface() {
                Some((KernelDriver::AfPacket | KernelDriver::Pcap, interface)) => {
                    let shield = Shield::install(&kernel::connect()?, interface).await.with_context(what)?;
                    if !shield.covers_egress() {
                        info!(
                            "port {}: this kernel may send a few packets of its own by {interface}",
                            port.name
                        );
                    }
                    guards.shields.push((interface.to_owned(), shield));
                }
                Some((KernelDriver::AfXdp, interface)) => {
                    let handle = kernel::connect()?;
                    let link = kernel::link::find(&handle, interface).await.with_context(what)?;
                    kernel::link::bring_up(&handle, &link, None).await.with_context(what)?;
                    let guard = XdpGuard::install(interface).with_context(what)?;
                    if let Some(xdp::Program { id, name }) = guard.found() {
                        warn!(
                            "port {}: {interface} has an AF_XDP program, {name} (id {id}), of another process or of one \
                             that was killed: it is used and left there (ip link set dev {interface} xdp off removes it)",
                            port.name
                        );
                    }
                    guards.xdp.push(guard);
                }
                Some((KernelDriver::Tap, _)) | None => {}
            }
        }
        Ok(guards)
    }

    /// Ends when somebody has taken a shield away; tells which, and why. May be dropped and called again.
    pub(super) async fn lost(&mut self) -> (usize, KernelError) {
        if self.shields.is_empty() {
            std::future::pending::<()>().await;
        }
        let mut lost: Vec<_> = self.shields.iter_mut().map(|(_, shield)| Box::pin(shield.lost())).collect();
        let (reason, which, _) = select_all(lost.drain(..)).await;
        (which, reason)
    }

    /// Puts a lost shield back. To be awaited to its end: dropped half-way, it has put nothing back.
    ///
    /// # Errors
    /// When it cannot be put back: from then on the kernel answers on that interface as well.
    pub(super) async fn restore(&mut self, which: usize, reason: &KernelError) -> anyhow::Result<()> {
        warn!("{reason}; putting it back");
        let (interface, shield) = &mut self.shields[which];
        *shield = Shield::install(&kernel::connect()?, interface).await?;
        Ok(())
    }

    /// Takes everything away.
    pub(super) async fn remove(self) {
        for (_, shield) in self.shields {
            if let Err(reason) = shield.remove().await {
                warn!("{reason}");
            }
        }
    }
}

/// Twins and the watch over next hops; empty where no port has a twin.
#[derive(Default)]
pub(super) struct KernelSide {
    twins: Vec<(usize, Twin)>,
    neighbours: Option<Neighbours>,
    rows: Option<watch::Receiver<Arc<KernelNextHops>>>,
    check_routes: CheckRoutes,
}

impl KernelSide {
    /// Puts addresses on the twins, `vips` among them, and starts to watch next hops of `targets`.
    pub(super) async fn start(
        &mut self,
        rules: &Rules,
        ports: &[PortHandle],
        (targets, vips): (BTreeSet<IpAddr>, &BTreeSet<Prefix>),
    ) -> anyhow::Result<()> {
        for (index, (port, handle)) in rules.ports.iter().zip(ports).enumerate() {
            let Some(ifname) = &handle.twin_ifname else { continue };
            let what = || format!("[[port]] {}: its kernel twin {ifname}", port.name);
            let settings = settings(port, vips, handle.mtu);
            let twin = Twin::configure(kernel::connect()?, ifname, settings).await.with_context(what)?;
            twin.warnings().iter().for_each(|warning| warn!("port {}: {warning}", port.name));
            self.twins.push((index, twin));
        }
        if !self.twins.is_empty() {
            let wanted = self.wanted(rules, targets);
            let neighbours = Neighbours::start(wanted, Refresh::of_this_kernel())
                .await
                .context("the kernel's neighbours")?;
            self.rows = Some(neighbours.next_hops());
            self.neighbours = Some(neighbours);
        }
        Ok(())
    }

    /// Puts `vips`, and no others, on the twins.
    pub(super) async fn announce(&mut self, rules: &Rules, vips: &BTreeSet<Prefix>) -> anyhow::Result<()> {
        let vips: Vec<_> = vips.iter().copied().map(network).collect();
        for (index, twin) in &mut self.twins {
            let port = &rules.ports[*index];
            twin.sync_vips(&vips)
                .await
                .with_context(|| format!("[[port]] {}: VIPs on its twin", port.name))?;
        }
        Ok(())
    }

    /// Routes check addresses, and no others, to the slow path: by the first twin that has an address of their family, from which
    /// the kernel then talks.
    pub(super) async fn route_checks(&mut self, rules: &Rules) -> anyhow::Result<()> {
        let networks = rules.check_networks();
        let routes: Vec<_> = [false, true]
            .into_iter()
            .filter_map(|is_v6| {
                let networks = networks?;
                let network = if is_v6 { networks.v6 } else { networks.v4 }?;
                let has_source = |port: &Port| port.addresses.iter().any(|net| net.addr().is_ipv6() == is_v6);
                let (_, twin) = self.twins.iter().find(|(index, _)| has_source(&rules.ports[*index]))?;
                Some(CheckRoute { network, gateway: networks.gateway(is_v6)?, ifindex: twin.ifindex() })
            })
            .collect();
        if self.twins.is_empty() {
            return Ok(());
        }
        self.check_routes.sync(&kernel::connect()?, &routes).await.context("[checks]")
    }

    /// Whether next hops are asked of the kernel at all: where any port has a twin.
    pub(super) fn is_watching(&self) -> bool {
        self.neighbours.is_some()
    }

    /// Asks for the next hops of `targets`, and no others.
    pub(super) fn watch(&self, rules: &Rules, targets: BTreeSet<IpAddr>) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.set_wanted(self.wanted(rules, targets));
        }
    }

    fn wanted(&self, rules: &Rules, mut targets: BTreeSet<IpAddr>) -> Wanted {
        for neighbour in &rules.neighbours {
            targets.remove(&neighbour.address);
        }
        let ports: BTreeMap<_, _> = self.twins.iter().map(|(index, twin)| (twin.ifindex(), *index)).collect();
        Wanted { ports, targets }
    }

    /// Waits until the kernel's view of the next hops has changed; for ever where nothing is watched.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.rows {
            Some(rows) => rows.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }

    /// The next hops that are known now.
    pub(super) fn next_hops(&mut self) -> NextHops {
        let Some(rows) = &mut self.rows else { return NextHops::new() };
        let rows = Arc::clone(&rows.borrow_and_update());
        let known = rows.iter().filter_map(|(target, row)| Some((*target, row.as_ref().ok()?)));
        known
            .map(|(target, hop)| {
                let port = PortIndex(hop.port_index as u16);
                (target, NextHop { port, mac: MacAddress(hop.mac), is_on_link: hop.next_hop == target })
            })
            .collect()
    }

    /// Why targets have no next hop now, a sentence each.
    pub(super) fn unresolved(&self) -> BTreeMap<IpAddr, String> {
        let Some(rows) = &self.rows else { return BTreeMap::new() };
        let rows = Arc::clone(&rows.borrow());
        rows.iter().filter_map(|(target, row)| Some((*target, row.as_ref().err()?.to_string()))).collect()
    }

    /// Takes back what was put into the kernel.
    pub(super) async fn stop(&mut self) {
        self.rows = None;
        if let Some(neighbours) = self.neighbours.take() {
            neighbours.stop().await;
        }
        self.twins.clear();
    }
}

/// The largest MTU of a twin: DPDK's TAP driver neither sends nor receives frames of more than 1,522 bytes (22.11,
/// `RTE_ETHER_MAX_VLAN_FRAME_LEN` in rte_eth_tap.c). TCP finds out by the MSS that the twin's kernel announces.
const TWIN_MTU_MAX: u16 = 1_500;

fn settings(port: &Port, vips: &BTreeSet<Prefix>, mtu: u16) -> TwinSettings {
    TwinSettings {
        addresses: port.addresses.clone(),
        vips: vips.iter().copied().map(network).collect(),
        local_addresses: port.local_addresses.clone(),
        mtu: Some(u32::from(mtu.min(TWIN_MTU_MAX))),
    }
}

/// As the kernel side writes it. A [`Prefix`] is never longer than an address of its family.
fn network(vips: Prefix) -> IpNet {
    IpNet::new(vips.network(), vips.prefix_len()).unwrap_or_else(|_| vips.network().into())
}

/// The VIPs that Crossdock itself announces.
pub(super) fn announced_vips(rules: &Rules) -> BTreeSet<Prefix> {
    rules
        .services
        .iter()
        .filter(|service| service.announce == Announce::Arp)
        .flat_map(|service| service.vips())
        .collect()
}
