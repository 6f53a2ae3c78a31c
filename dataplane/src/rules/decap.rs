//! What of the tunnels that end at this director the rules name.

use super::AddressSet;

/// Addresses at which tunnels end, and of which kinds.
#[derive(Clone, Debug, Default)]
pub struct Decap {
    /// Outer destinations.
    pub addresses: AddressSet,
    /// IP in IP, all four kinds of it.
    pub ipip: bool,
    /// GRE.
    pub gre: bool,
    /// GUE, and its UDP destination port, host order.
    pub gue_port: Option<u16>,
}
