//! How a port stands: what was settled when it was opened, and its link, which goes up and down.

use tracing::{info, warn};

use crate::launch::PortHandle;
use crate::report::{LinkReport, PortReport};
use crate::rules::Port;

/// A port, for whoever asks.
pub(super) struct PortStanding {
    mac: String,
    mtu: u16,
    twin: Option<String>,
    is_promiscuous: bool,
    link: Option<LinkReport>,
}

impl PortStanding {
    /// As it was opened.
    pub(super) fn new((handle, port): (&PortHandle, &Port)) -> Self {
        Self {
            mac: handle.facts.mac.to_string(),
            mtu: handle.mtu,
            twin: handle.twin_ifname.clone(),
            is_promiscuous: port.promiscuous,
            link: link_of(handle),
        }
    }

    /// Asks for its link, and tells the log when that went up or down. A device that does not answer is as it was.
    pub(super) fn look(&mut self, handle: &PortHandle) {
        let Some(link) = link_of(handle) else { return };
        match (self.link.is_some_and(|before| before.up), link.up) {
            (true, false) => warn!("port {}: its link is down", handle.name),
            (false, true) => info!("port {}: its link is {link}", handle.name),
            _ => {}
        }
        self.link = Some(link);
    }

    /// Adds it to what was counted.
    pub(super) fn tell(&self, report: &mut PortReport) {
        report.mac = Some(self.mac.clone());
        report.mtu = Some(self.mtu);
        report.twin.clone_from(&self.twin);
        report.promiscuous = self.is_promiscuous;
        report.link = self.link;
    }
}

fn link_of(handle: &PortHandle) -> Option<LinkReport> {
    let link = handle.device.link().ok()?;
    Some(LinkReport { up: link.up, speed_mbps: link.speed_mbps })
}
