//! Which part of a client decides who owns its connections to each VIP, from one ruleset to the next: pure.
//!
//! What it is not: it moves no connection. Where the part changes, connections from before stay with their worker:
//! their packets are looked for there first, until none of the VIP is open ([`Vip::part_before`]).

use std::collections::{BTreeMap, BTreeSet};

use dataplane::prefix::Prefix;
use dataplane::rules::{ClientPart, Vip};

/// The part changed again before the connections from before the first change had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedTwice {
    /// The VIP, or the network of them.
    pub vip: Prefix,
}

/// What services ask of VIPs: the VIPs and networks of VIPs each listens on, and the part of a client that must meet at one
/// worker.
///
/// A VIP takes the coarsest part of its services; VIPs of one service take the same part, or a client would meet
/// its template by one of them only. For the same reason what lies within a network takes the network's.
pub fn wanted(services: &[(Vec<Prefix>, ClientPart)]) -> BTreeMap<Prefix, ClientPart> {
    let vips = services.iter().flat_map(|(vips, _)| vips.iter().map(|vip| (*vip, ClientPart::Endpoint)));
    let mut parts: BTreeMap<_, _> = vips.collect();
    loop {
        let before = parts.clone();
        // A service that is not persistent does not tie its VIPs together.
        for (vips, part) in services.iter().filter(|(_, part)| *part != ClientPart::Endpoint) {
            let coarsest = vips.iter().flat_map(|vip| within(&parts, *vip)).map(|(_, part)| part);
            let coarsest = coarsest.fold(*part, Ord::max);
            for vip in vips {
                let tied: Vec<Prefix> = within(&parts, *vip).map(|(vip, _)| vip).collect();
                parts.extend(tied.into_iter().map(|vip| (vip, coarsest)));
            }
        }
        if parts == before {
            return parts;
        }
    }
}

/// What lies within `network`, itself included. They stand side by side: a prefix is ordered before what it holds.
fn within(
    parts: &BTreeMap<Prefix, ClientPart>,
    network: Prefix,
) -> impl Iterator<Item = (Prefix, ClientPart)> {
    parts.range(network..).take_while(move |(vip, _)| network.covers(**vip)).map(|(vip, part)| (*vip, *part))
}

/// The VIPs of the next ruleset, from those in force. `open` are VIPs with open connections; those no service wants
/// any more stay as they are while they are open.
///
/// # Errors
/// [`ChangedTwice`] when a VIP is still looking for connections by another part.
pub fn next(
    in_force: &BTreeMap<Prefix, Vip>,
    wanted: &BTreeMap<Prefix, ClientPart>,
    open: &BTreeSet<Prefix>,
) -> Result<BTreeMap<Prefix, Vip>, ChangedTwice> {
    let mut vips: BTreeMap<_, _> =
        in_force.iter().filter(|(vip, _)| open.contains(vip)).map(|(vip, now)| (*vip, *now)).collect();
    let (in_force_lens, open_lens) = (lens(in_force.keys()), lens(open));
    for (vip, part) in wanted {
        // A VIP that is new in a network has had the network's connections so far.
        let now = around(*vip, &in_force_lens).find_map(|prefix| in_force.get(&prefix));
        let is_open = || around(*vip, &open_lens).any(|prefix| open.contains(&prefix));
        let next = match now {
            Some(now) => changed(*now, *part, is_open()).ok_or(ChangedTwice { vip: *vip })?,
            None => Vip { part: *part, part_before: None },
        };
        vips.insert(*vip, next);
    }
    Ok(vips)
}

/// Whether a VIP still looks for connections by another part although none is open.
pub fn can_settle(in_force: &BTreeMap<Prefix, Vip>, open: &BTreeSet<Prefix>) -> bool {
    let lens = lens(open);
    let is_open = |vip: Prefix| around(vip, &lens).any(|prefix| open.contains(&prefix));
    in_force.iter().any(|(vip, now)| now.part_before.is_some() && !is_open(*vip))
}

/// The lengths that prefixes have.
fn lens<'a>(prefixes: impl IntoIterator<Item = &'a Prefix>) -> BTreeSet<u8> {
    prefixes.into_iter().map(|prefix| prefix.prefix_len()).collect()
}

/// `vip`, and what holds it, of these lengths; the longest first.
fn around(vip: Prefix, lens: &BTreeSet<u8>) -> impl Iterator<Item = Prefix> {
    lens.range(..=vip.prefix_len()).rev().map(move |len| Prefix::new(vip.network(), *len))
}

/// A VIP in force with another part wanted. Also where nothing seems open a change is told to workers as such: a
/// connection may be made while they take it up.
fn changed(now: Vip, part: ClientPart, is_open: bool) -> Option<Vip> {
    let part_before = match now.part_before {
        Some(before) if is_open => Some(before),
        _ => None,
    };
    if now.part == part {
        return Some(Vip { part, part_before });
    }
    // Not even back to what it was: workers that take it up at different moments would ask the two owners in opposite
    // orders, and each could take the other's connection for unknown.
    part_before.is_none().then_some(Vip { part, part_before: Some(now.part) })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const fn vip(last: u8) -> Prefix {
        Prefix::of(IpAddr::V4(Ipv4Addr::new(203, 0, 113, last)))
    }

    const A: Prefix = vip(1);
    const B: Prefix = vip(2);
    const C: Prefix = vip(3);

    fn network(host_bits: u8) -> ClientPart {
        ClientPart::Network { host_bits }
    }

    #[test]
    fn vips_of_one_persistent_service_take_the_coarsest_part_of_all_their_services() {
        let services = [
            (vec![A, B], network(0)),
            (vec![B], network(8)),
            (vec![A, C], ClientPart::Endpoint),
            (vec![C], ClientPart::Endpoint),
        ];
        let parts = wanted(&services);
        assert_eq!(parts, [(A, network(8)), (B, network(8)), (C, ClientPart::Endpoint)].into());
    }

    #[test]
    fn a_change_keeps_looking_by_the_part_before_until_nothing_is_open() {
        let open: BTreeSet<_> = [A].into();
        let first = next(&BTreeMap::new(), &[(A, ClientPart::Endpoint)].into(), &BTreeSet::new()).unwrap();
        assert_eq!(first[&A], Vip::PLAIN);
        let wanted = [(A, network(0))].into();
        // Though the census saw nothing: a connection may come while workers take the rules up.
        let second = next(&first, &wanted, &BTreeSet::new()).unwrap();
        assert_eq!(second[&A], Vip { part: network(0), part_before: Some(ClientPart::Endpoint) });
        let third = next(&second, &wanted, &open).unwrap();
        assert_eq!(third, second);
        assert!(can_settle(&third, &BTreeSet::new()) && !can_settle(&third, &open));
        let last = next(&third, &wanted, &BTreeSet::new()).unwrap();
        assert_eq!(last[&A], Vip { part: network(0), part_before: None });
        assert!(!can_settle(&last, &BTreeSet::new()));
    }

    #[test]
    fn a_second_change_must_wait_also_when_it_goes_back() {
        let open: BTreeSet<_> = [A].into();
        let now: BTreeMap<_, _> =
            [(A, Vip { part: network(8), part_before: Some(ClientPart::Endpoint) })].into();
        assert_eq!(next(&now, &[(A, network(0))].into(), &open), Err(ChangedTwice { vip: A }));
        assert_eq!(next(&now, &[(A, ClientPart::Endpoint)].into(), &open), Err(ChangedTwice { vip: A }));
        let quiet = next(&now, &[(A, network(0))].into(), &BTreeSet::new()).unwrap();
        assert_eq!(quiet[&A], Vip { part: network(0), part_before: Some(network(8)) });
    }

    #[test]
    fn a_vip_that_no_service_has_stays_while_connections_are_open() {
        let now: BTreeMap<_, _> = [(A, Vip::PLAIN), (B, Vip::PLAIN)].into();
        let vips = next(&now, &BTreeMap::new(), &[B].into()).unwrap();
        assert_eq!(vips, [(B, Vip::PLAIN)].into());
    }

    #[test]
    fn what_lies_within_a_persistent_network_takes_its_part() {
        let network_of_vips = Prefix::new(A.network(), 28);
        let other = Prefix::new(Ipv4Addr::new(203, 0, 113, 64), 28);
        let services = [
            (vec![network_of_vips], network(8)),
            (vec![A], ClientPart::Endpoint),
            (vec![B], network(16)),
            (vec![other], ClientPart::Endpoint),
        ];
        let parts = wanted(&services);
        let expected = [
            (network_of_vips, network(16)),
            (A, network(16)),
            (B, network(16)),
            (other, ClientPart::Endpoint),
        ];
        assert_eq!(parts, expected.into());
    }

    #[test]
    fn a_vip_that_is_new_in_a_network_has_had_its_connections() {
        let network_of_vips = Prefix::new(A.network(), 28);
        let now: BTreeMap<_, _> = [(network_of_vips, Vip::PLAIN)].into();
        let open: BTreeSet<_> = [network_of_vips].into();
        let wanted =
            [(network_of_vips, ClientPart::Endpoint), (A, network(0)), (B, ClientPart::Endpoint)].into();
        let vips = next(&now, &wanted, &open).unwrap();
        assert_eq!(vips[&A], Vip { part: network(0), part_before: Some(ClientPart::Endpoint) });
        assert_eq!((vips[&B], vips[&network_of_vips]), (Vip::PLAIN, Vip::PLAIN));
        assert!(!can_settle(&vips, &open) && can_settle(&vips, &BTreeSet::new()));
    }
}
