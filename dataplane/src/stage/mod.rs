//! The walk of a packet, one file a step, in this order:
//!
//! [`parse`] -> [`steer`] -> [`lookup`] -> [`admit`] (misses) -> [`reply`] (refused) -> [`rewrite`] -> [`transmit`]
//!
//! Before the first and behind the last is [`framing`], for ports whose frames are not as the line wants them.
//! What does not fit its way rewrite has [`fit`] judge, and transmit [`cut`] cuts.
//!
//! A stage takes the whole burst and leaves what it found in the burst's arrays; it prefetches what the next
//! one reads. More are called where there is work for them: [`fragments`] after steer, [`icmp`] and [`tunnel_error`] before rewrite. Only rows whose verdict is `Forward` are looked at after parse.

pub mod admit;
pub mod cut;
pub mod decap;
pub mod fit;
pub mod fragments;
pub mod framing;
pub mod icmp;
pub mod lookup;
pub mod parse;
pub mod reply;
pub mod reroute;
pub mod rewrite;
pub mod steer;
pub mod transmit;
pub mod tunnel_error;
