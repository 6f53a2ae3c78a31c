//! Where one service goes before another because it is more specific: told by `crossdock check`, so that nobody has to work
//! it out. Pure; the order itself is `dataplane::rules::ServiceTable`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::checked::{L4Ports, Listen, Prefix, Protocol, Rules};

/// Two services that some packet asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nested<'a> {
    /// The name of the one that gets it, and what it listens on.
    pub first: (&'a str, Listen),
    /// Those of the one that gets the rest.
    pub second: (&'a str, Listen),
}

impl fmt::Display for Nested<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((first, narrow), (second, wide)) = (self.first, self.second);
        let why = if narrow.vips != wide.vips { "its VIPs are fewer" } else { "its ports are fewer" };
        write!(f, "{narrow} (service {first}) goes before {wide} (service {second}): {why}")
    }
}

/// Every such pair, in the order of the rules.
pub fn nested(rules: &Rules) -> Vec<Nested<'_>> {
    let listens = || {
        rules
            .services
            .iter()
            .flat_map(|service| service.listens.iter().map(|listen| (service.name.as_str(), *listen)))
    };
    // Nothing but a network or several ports can hold another.
    let is_wide = |listen: &Listen| listen.vips.address().is_none() || listen.l4_ports.single().is_none();
    let mut wide: BTreeMap<(Protocol, Prefix), Vec<(&str, Listen)>> = BTreeMap::new();
    for (name, listen) in listens().filter(|(_, listen)| is_wide(listen)) {
        wide.entry((listen.protocol, listen.vips)).or_default().push((name, listen));
    }
    let lens: BTreeSet<u8> = wide.keys().map(|(_, vips)| vips.prefix_len()).collect();
    let (lens, wide) = (&lens, &wide);
    let around = |Listen { protocol, vips, .. }: Listen| {
        let prefixes =
            lens.range(..=vips.prefix_len()).rev().map(move |len| Prefix::new(vips.network(), *len));
        prefixes.filter_map(move |vips| wide.get(&(protocol, vips))).flatten()
    };
    let goes_before = |(name, listen): (&str, Listen), (other_name, other): (&str, Listen)| {
        let is_narrower = listen.vips != other.vips || is_within(listen.l4_ports, other.l4_ports);
        name != other_name && listen.l4_ports.meets(other.l4_ports) && is_narrower
    };
    listens()
        .flat_map(|first| {
            let seconds = around(first.1).filter(move |second| goes_before(first, **second));
            seconds.map(move |second| Nested { first, second: *second })
        })
        .collect()
}

fn is_within(narrow: L4Ports, wide: L4Ports) -> bool {
    narrow != wide && wide.covers(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_before_whom_is_told_with_the_reason() {
        let mut text = String::from("[[port]]\nname = \"p\"\ndevice = \"null\"\n");
        for (name, listen) in [
            ("web", "tcp 203.0.113.10:80"),
            ("some", "tcp 203.0.113.10:80-90"),
            ("all", "tcp 203.0.113.10:*"),
            ("net", "tcp 203.0.113.0/28:443"),
            ("dns", "udp 203.0.113.0/24:53"),
        ] {
            text += &format!("[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\nmode = \"dr\"\n");
        }
        let rules = Rules::parse("test", &text).unwrap();
        let told: Vec<_> = nested(&rules).iter().map(Nested::to_string).collect();
        assert_eq!(
            told,
            [
                "tcp 203.0.113.10:80 (service web) goes before tcp 203.0.113.10:80-90 (service some): its ports are fewer",
                "tcp 203.0.113.10:80 (service web) goes before tcp 203.0.113.10:* (service all): its ports are fewer",
                "tcp 203.0.113.10:80-90 (service some) goes before tcp 203.0.113.10:* (service all): its ports are fewer",
                "tcp 203.0.113.10:* (service all) goes before tcp 203.0.113.0/28:443 (service net): its VIPs are fewer",
            ]
        );
    }
}
