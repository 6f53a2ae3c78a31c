//! Where Crossdock is different and means to be.

use serde_json::Value;

use crate::director::Fate;
use crate::same::{inner, is_as_recorded, outer_destination, reals_of};
use crate::sets::{hex, text};

/// Cases that are not equal: the set, its cases, the words by which `docs/katran.md` says why, and what is the case here.
pub(crate) const DIFFERENT: &[(&str, &[u64], &str, Here)] = &[
    ("ipip_base", &[12], "IPv4 options", Here::Carried),
    ("gue_base", &[10], "IPv4 options", Here::Carried),
    // The outer source and the checksum over it; of GUE the UDP source port and that checksum.
    ("ipip_base", &[19, 20], "by port alone", Here::Differs(&[(24, 2), (26, 4)])),
    ("gue_base", &[17, 18], "by port alone", Here::Differs(&[(34, 2), (40, 2)])),
    ("ipip_tpr", &[14], "by port alone", Here::Differs(&[(24, 2), (26, 4)])),
    ("ipip_base", &[8, 9], "echo to a VIP", Here::Kernel),
    ("gue_base", &[6, 7], "echo to a VIP", Here::Kernel),
    ("ipip_base", &[14], "a fragment of nothing known", Here::Kernel),
    ("gue_base", &[12], "a fragment of nothing known", Here::Kernel),
    ("ipip_icmp_toobig", &[1], "what does not fit", Here::Dropped),
    ("ipip_icmp_toobig", &[2], "what does not fit", Here::ToldTooBig),
    ("gue_xpop_decap", &[6], "out of a tunnel to a VIP", Here::Carried),
    ("gue_decap_stats", &[1, 2], "out of a tunnel to a VIP", Here::Carried),
    ("gue_egress_decap", &[1, 2, 3], "out of a tunnel from a VIP", Here::KernelUnwrapped),
    ("xdpdecap_ipip", &[3, 4], "fragments outside of tunnels", Here::Kernel),
    ("xdpdecap_gue", &[4, 5], "fragments outside of tunnels", Here::Kernel),
];

/// What becomes of a packet of which Katran makes something else.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Here {
    /// The kernel's, as it came.
    Kernel,
    /// The kernel's, out of its tunnel and otherwise as it came.
    KernelUnwrapped,
    Dropped,
    /// To one of its VIP's own reals, in the tunnel; but for hops and their checksum as it came, or as it was in its own tunnel.
    Carried,
    /// Sent as Katran does but for these bytes, offset and length, and those of the backend.
    Differs(&'static [(usize, usize)]),
    /// An ICMPv6 packet too big to its sender, with all that fits 1,280 bytes.
    ToldTooBig,
}

impl Here {
    /// Whether it is the case.
    pub(crate) fn is(self, set: &Value, case: &Value, fate: &Fate) -> bool {
        let input = hex(&text(case, "input_hex"));
        match (self, fate) {
            (Self::Kernel, Fate::Punted(punted)) => *punted == input,
            (Self::KernelUnwrapped, Fate::Punted(punted)) => {
                punted.len() < input.len() && input.ends_with(&punted[14..])
            }
            (Self::Dropped, Fate::Dropped) => true,
            (Self::Carried, Fate::Sent(sent)) => {
                let (Some(inner), Some(real)) = (inner(sent), outer_destination(sent)) else { return false };
                // Behind the hops, and IPv4's checksum.
                let rest = &inner[if inner[0] >> 4 == 6 { 8 } else { 12 }..];
                reals_of(set, sent).contains(&real) && input.ends_with(rest)
            }
            (Self::Differs(ranges), Fate::Sent(sent)) => {
                let recorded = hex(&text(case, "expected_hex"));
                let differs =
                    ranges.iter().all(|(at, len)| recorded.get(*at..at + len) != sent.get(*at..at + len));
                differs && is_as_recorded(case, set, &recorded, sent, ranges)
            }
            (Self::ToldTooBig, Fate::Sent(sent)) => {
                let (to, from) = (&input[6..12], &input[..6]);
                sent.len() == 14 + 1_280
                    && sent.starts_with(&[to, from, &[0x86, 0xdd]].concat())
                    && (sent[20], &sent[54..56]) == (58, &[2, 0][..])
                    && sent[62..] == input[14..14 + 1_232]
            }
            _ => false,
        }
    }
}

pub(crate) fn why_different(set: &str, index: u64) -> Option<(&'static str, Here)> {
    let case = DIFFERENT.iter().find(|(name, cases, ..)| *name == set && cases.contains(&index));
    case.map(|(_, _, why, here)| (*why, *here))
}
