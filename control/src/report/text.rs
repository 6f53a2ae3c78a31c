//! The reports on one screen, for people.

use std::fmt;

use dataplane::verdict::DropReason;

use super::{BackendReport, DeviceLosses, FlowReport, PacketReport, PortReport, Report, ServiceReport};
use crate::director::advice::remedy;
use crate::slow_path::ClassSnapshot;
use crate::slow_path::checks::CheckSnapshot;
use crate::worker_report;

impl fmt::Display for Report {
    /// One screen for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "crossdock {}, up {:.1} s, revision {}, {} worker{}",
            self.version,
            self.seconds,
            self.revision,
            self.workers,
            if self.workers == 1 { "" } else { "s" }
        )?;
        writeln!(
            f,
            "\n{:<14}{:>14}{:>16}{:>14}{:>16}  DEVICE",
            "PORT", "RX PACKETS", "RX BYTES", "TX PACKETS", "TX BYTES"
        )?;
        for port in &self.ports {
            let PortReport { name, device, rx_packets, rx_bytes, tx_packets, tx_bytes, .. } = port;
            writeln!(f, "{name:<14}{rx_packets:>14}{rx_bytes:>16}{tx_packets:>14}{tx_bytes:>16}  {device}")?;
            if port.link.is_some_and(|link| !link.up) {
                writeln!(f, "  its link is down")?;
            }
            if let Some(rss) = &port.rss {
                writeln!(f, "  {rss}")?;
            }
            if !port.offloads.is_empty() {
                writeln!(f, "  computed by the device: {}", port.offloads.join(", "))?;
            }
            if port.lost != DeviceLosses::default() {
                let DeviceLosses { rx_missed, rx_errors, rx_no_mbuf, tx_errors } = port.lost;
                writeln!(
                    f,
                    "  lost by the device: {rx_missed} missed, {rx_errors} damaged, {rx_no_mbuf} without a buffer, \
                     {tx_errors} not sent"
                )?;
            }
        }
        worker_report::write_workers(&self.per_worker, f)?;
        writeln!(
            f,
            "\n{:<30}{:>7}{:>12}{:>8}{:>14}{:>16}  NEXT HOP",
            "SERVICE / BACKEND", "WEIGHT", "CONNECTIONS", "OPEN", "PACKETS", "BYTES"
        )?;
        for service in &self.services {
            service.write(f)?;
        }
        let lost =
            self.neighbours.iter().filter_map(|neighbour| Some((neighbour, neighbour.problem.as_ref()?)));
        for (place, (neighbour, problem)) in lost.enumerate() {
            let blank = if place == 0 { "\n" } else { "" };
            writeln!(f, "{blank}no next hop: {}: {problem}", neighbour.address)?;
        }
        self.write_totals(f)
    }
}

impl Report {
    fn write_totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PacketReport {
            forwarded,
            resets,
            unreachables,
            too_bigs,
            fragmented,
            client_address_withheld,
            own_resets,
            own_resets_withheld,
            icmp_errors,
            fragments_waiting,
            checksums_offloaded,
            checksums_summed,
            decapsulated,
            punted,
            dropped,
            steered,
            from_slow_path,
        } = self.packets;
        writeln!(
            f,
            "\npackets: {forwarded} forwarded, {punted} to the kernel, {from_slow_path} from it, {steered} steered, {dropped} dropped"
        )?;
        if resets + unreachables + too_bigs > 0 {
            writeln!(
                f,
                "answered: {resets} with a RST, {unreachables} with ICMP unreachable, {too_bigs} with how much fits"
            )?;
        }
        if decapsulated > 0 {
            writeln!(f, "taken out of tunnels: {decapsulated}")?;
        }
        if checksums_offloaded + checksums_summed > 0 {
            writeln!(
                f,
                "checksums of whole datagrams: {checksums_offloaded} by the ports, {checksums_summed} in software"
            )?;
        }
        if fragmented > 0 {
            writeln!(f, "fragmented: {fragmented}")?;
        }
        if client_address_withheld > 0 {
            writeln!(f, "without the client's address, for want of room: {client_address_withheld}")?;
        }
        if own_resets + own_resets_withheld > 0 {
            writeln!(
                f,
                "ends of forgotten connections: {own_resets} told by a RST, {own_resets_withheld} not"
            )?;
        }
        if icmp_errors > 0 {
            writeln!(f, "of the forwarded: {icmp_errors} ICMP errors about connections")?;
        }
        if fragments_waiting > 0 {
            writeln!(f, "waiting for the first of their datagram: {fragments_waiting} fragments")?;
        }
        for (reason, count) in self.drops.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "  {reason:<22}{count:>14}")?;
            let known = DropReason::ALL.iter().find(|known| known.name() == reason);
            if let Some(remedy) = known.and_then(|known| remedy(*known)) {
                writeln!(f, "    to do: {remedy}")?;
            }
        }
        let FlowReport { open, opened, expired, evicted, deleted, purged, entries } = self.flows;
        for (port, twin) in &self.slow_path {
            let ClassSnapshot { to_kernel, from_kernel, policed, twin_refused, worker_ring_full } =
                twin.total();
            writeln!(
                f,
                "twin of {port}: {to_kernel} packets to the kernel, {from_kernel} from it; lost: {policed} policed, \
                 {twin_refused} refused by the twin, {worker_ring_full} ring full"
            )?;
        }
        if let Some(CheckSnapshot { to_backends, from_backends, refused }) = self.checks {
            writeln!(
                f,
                "health checks: {to_backends} packets to backends, {from_backends} from them, {refused} refused"
            )?;
        }
        writeln!(
            f,
            "connections: {open} open ({entries} table entries), {opened} made, {expired} expired, {evicted} evicted, \
             {deleted} deleted, {purged} purged"
        )
    }
}

impl BackendReport {
    /// Whether its checks say that it cannot serve.
    fn is_failed(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.state != "up")
    }

    /// The weight for people; the state in its place where that says more.
    fn weight_text(&self) -> String {
        let Self { weight, weight_in_force, state, .. } = self;
        if state != "up" {
            state.clone()
        } else if self.is_failed() {
            "failed".to_owned()
        } else if *weight_in_force < f64::from(*weight) {
            format!("{weight_in_force:.1}/{weight}")
        } else {
            weight.to_string()
        }
    }
}

impl ServiceReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, listen, mode, scheduler, packets, bytes, connections, backends, sorry, .. } = self;
        let open: u64 = backends.iter().chain(sorry).map(|backend| backend.open).sum();
        let title = format!("{name} {listen} {mode} {scheduler}");
        if title.len() < 37 {
            writeln!(f, "{title:<37}{connections:>12}{open:>8}{packets:>14}{bytes:>16}")?;
        } else {
            writeln!(f, "{title}\n{:<37}{connections:>12}{open:>8}{packets:>14}{bytes:>16}", "")?;
        }
        if self.refused > 0 {
            writeln!(f, "  {} connections refused", self.refused)?;
        }
        if let Some(routed) = self.routed {
            writeln!(f, "  {routed}")?;
        }
        let weighed = backends.iter().map(|backend| (backend, backend.weight_text()));
        for (backend, weight) in weighed.chain(sorry.iter().map(|sorry| (sorry, "sorry".to_owned()))) {
            let BackendReport { address, packets, bytes, connections, open, next_hop, .. } = backend;
            let next_hop = next_hop.as_deref().unwrap_or("unknown");
            writeln!(
                f,
                "  {address:<28}{weight:>7}{connections:>12}{open:>8}{packets:>14}{bytes:>16}  {next_hop}"
            )?;
            if let Some(health) = backend.health.as_ref().filter(|_| backend.is_failed()) {
                writeln!(f, "    {health}")?;
            }
            if let Some(mtu) = backend.path_mtu {
                writeln!(f, "    a router on the way to it takes {mtu} bytes and no more")?;
            }
        }
        Ok(())
    }
}
