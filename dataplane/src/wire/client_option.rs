//! The option that tells a backend its client's address and l4_port, in a header of the packet itself: in that of TCP
//! (TOA, "TCP option address") or that of IPv4 (UOA, its like for UDP).
//!
//! Neither is registered with IANA. Both are what DPVS writes and its kernel modules `toa` and `uoa` read: a byte of kind, a
//! byte of length, the l4_port, the address; 8 bytes for an IPv4 client, 20 for an IPv6 one, so no padding is needed. TOA
//! is kind 254 by custom, which RFC 4727 sets aside for experiments. UOA is type 31, of class control and not copied into
//! later fragments (RFC 791 section 3.1); a receiver without the module gets it with `IP_RECVOPTS` (ip(7)).

use std::net::IpAddr;

use arrayvec::ArrayVec;

/// The kind of a TOA option unless the rules say otherwise.
pub const TOA_DEFAULT: u8 = 254;
/// The type of a UOA option unless the rules say otherwise.
pub const UOA_DEFAULT: u8 = 31;
/// The longest option in bytes: an IPv6 client's.
pub const LEN_MAX: usize = 20;

/// A whole option.
pub type ClientOption = ArrayVec<u8, LEN_MAX>;

/// The bytes of an option that tells `client`.
pub const fn len(client: IpAddr) -> u8 {
    if client.is_ipv4() { 8 } else { LEN_MAX as u8 }
}

/// The option of `kind` that tells the client's address and l4_port.
pub fn option(kind: u8, client: IpAddr, l4_port: u16) -> ClientOption {
    let mut option = ClientOption::new();
    put(&mut option, &[kind, len(client)]);
    put(&mut option, &l4_port.to_be_bytes());
    match client {
        IpAddr::V4(address) => put(&mut option, &address.octets()),
        IpAddr::V6(address) => put(&mut option, &address.octets()),
    }
    option
}

/// There is always room: [`LEN_MAX`] is the longest of all options.
fn put(option: &mut ClientOption, bytes: &[u8]) {
    let written = option.try_extend_from_slice(bytes);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_as_dpvs_writes_it() {
        let client = "198.51.100.7".parse().unwrap();
        assert_eq!(option(TOA_DEFAULT, client, 40_000)[..], [254, 8, 0x9c, 0x40, 198, 51, 100, 7]);
        assert_eq!(option(UOA_DEFAULT, client, 53)[..], [31, 8, 0, 53, 198, 51, 100, 7]);
        let option = option(200, "2001:db8::7".parse().unwrap(), 1);
        assert_eq!((option.len(), &option[..6]), (20, &[200, 20, 0, 1, 0x20, 0x01][..]));
        assert_eq!(option[19], 7);
    }
}
