//! What can go wrong between Crossdock and the kernel, each with the way out.
//!
//! A variant carries the value that was refused; the text says what to do about it.

use std::{error::Error, fmt, io, net::IpAddr};

use ipnet::IpNet;

use super::xdp::Program;

/// A refusal by the kernel or by `nft`, or a state of the machine in which going on would do harm.
#[derive(Debug)]
pub enum KernelError {
    /// No interface has this name.
    NoInterface {
        /// The name that was asked for.
        ifname: String,
        /// Every interface there is, the likeliest first.
        present: Vec<String>,
    },
    /// The kernel said EPERM or EACCES.
    NotPermitted {
        /// What was tried, as a verb phrase: "put 192.0.2.5/24 on xd0".
        what: String,
    },
    /// The kernel refused a request for another reason.
    Refused {
        /// What was tried, as a verb phrase.
        what: String,
        /// The kernel's errno.
        source: io::Error,
    },
    /// A socket, a pipe or a file under /proc/sys failed.
    Io {
        /// What was tried, as a verb phrase.
        what: String,
        /// The system's errno.
        source: io::Error,
    },
    /// An IPv6 address is wanted on an interface of a kernel without IPv6.
    NoIpv6 {
        /// The interface.
        ifname: String,
        /// The first address that cannot be placed.
        address: IpAddr,
    },
    /// A host-wide `arp_ignore` keeps the kernel from answering ARP for VIPs.
    ArpIgnoreAll {
        /// The value of `net.ipv4.conf.all.arp_ignore`, 2 or more.
        value: u32,
    },
    /// An interface to be shielded holds addresses, which would go deaf.
    HoldsAddresses {
        /// The interface.
        ifname: String,
        /// Its addresses, the kernel's own IPv6 link-local ones left out.
        addresses: Vec<IpNet>,
    },
    /// An interface to be shielded belongs to a bridge, a bond or a VRF.
    Enslaved {
        /// The interface.
        ifname: String,
        /// What it belongs to.
        controller: String,
    },
    /// An interface for an `af_xdp` port has an XDP program of somebody else's.
    XdpTaken {
        /// The interface.
        ifname: String,
        /// What is there.
        program: Program,
    },
    /// The program `nft` is not there.
    NftMissing,
    /// `nft` did not do what it was told.
    Nft {
        /// The interface that was to be shielded.
        ifname: String,
        /// What `nft` printed, or how it ended.
        message: String,
    },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface { ifname, present } => {
                write!(
                    f,
                    "there is no interface {ifname:?}; this network namespace has {}",
                    present.join(", ")
                )
            }
            Self::NotPermitted { what } => {
                write!(
                    f,
                    "may not {what}: this needs CAP_NET_ADMIN; run as root or grant it (setcap cap_net_admin+ep)"
                )
            }
            Self::Refused { what, source } => write!(f, "the kernel refused to {what}: {source}"),
            Self::Io { what, source } => write!(f, "could not {what}: {source}"),
            Self::NoIpv6 { ifname, address } => write!(
                f,
                "cannot put {address} on {ifname}: this kernel runs without IPv6; start it without ipv6.disable=1 \
                 or take the IPv6 addresses out of the rules"
            ),
            Self::ArpIgnoreAll { value } => write!(
                f,
                "net.ipv4.conf.all.arp_ignore is {value}, so the kernel would not answer ARP for a VIP; \
                 set it to 1 or 0 (sysctl -w net.ipv4.conf.all.arp_ignore=1)"
            ),
            Self::HoldsAddresses { ifname, addresses } => {
                let list: Vec<String> = addresses.iter().map(IpNet::to_string).collect();
                write!(
                    f,
                    "{ifname} holds {}, which would be cut off: an af_packet port is hidden from its own kernel; \
                     take them off the interface and write addresses = {list:?} under this port, \
                     then they live on its kernel twin",
                    list.join(", ")
                )
            }
            Self::Enslaved { ifname, controller } => write!(
                f,
                "{ifname} belongs to {controller}, which would be cut off: an af_packet port is hidden from its \
                 own kernel; free it first (ip link set {ifname} nomaster) or name another interface"
            ),
            Self::XdpTaken { ifname, program: Program { id, name } } => write!(
                f,
                "{ifname} has the XDP program {name:?} (id {id}) of somebody else; an af_xdp port needs that place: \
                 stop its owner or take it off (ip link set dev {ifname} xdp off), or name another interface"
            ),
            Self::NftMissing => write!(
                f,
                "the program nft is missing; an af_packet port needs it to hide the interface from its own \
                 kernel: apt install nftables"
            ),
            Self::Nft { ifname, message } => write!(f, "nft could not shield {ifname}: {message}"),
        }
    }
}

impl Error for KernelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused { source, .. } | Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Turns netlink's answer to "`what`" into an error that says so; for `map_err`.
pub(super) fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> KernelError {
    let what = what.into();
    move |error| {
        let source = as_io(error);
        match source.kind() {
            io::ErrorKind::PermissionDenied => KernelError::NotPermitted { what },
            _ => KernelError::Refused { what, source },
        }
    }
}

/// The errno inside a netlink error; other failures of the crate keep their text.
pub(super) fn as_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// A netlink socket that the kernel would not open; for `map_err`.
pub(super) fn socket(source: io::Error) -> KernelError {
    KernelError::Io { what: "open a netlink socket".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let held = KernelError::HoldsAddresses {
            ifname: "eth1".into(),
            addresses: vec!["192.0.2.5/24".parse().unwrap()],
        };
        assert!(held.to_string().contains(r#"addresses = ["192.0.2.5/24"]"#), "{held}");
        assert!(KernelError::NftMissing.to_string().contains("apt install nftables"));
        let denied = refused("bring up xd0")(rtnetlink::Error::NetlinkError({
            let mut message = rtnetlink::packet_core::ErrorMessage::default();
            message.code = std::num::NonZeroI32::new(-1); // EPERM
            message
        }));
        assert!(denied.to_string().starts_with("may not bring up xd0: this needs CAP_NET_ADMIN"), "{denied}");
    }
}
