//! Interfaces by name and index: find one, bring it up, list its addresses.

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::AddressAttribute,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

use super::error::{KernelError, as_io, refused};

/// The kernel's errno for "no such device", in netlink's answer to a name that nobody has.
const ENODEV: i32 = 19;

/// What Crossdock needs to know of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it in this network namespace.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// Administratively up.
    pub up: bool,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u32,
    /// The interface index of the bridge, bond or VRF it belongs to.
    pub controller: Option<u32>,
    /// Its MAC; zeros where it has none.
    pub mac: [u8; 6],
}

/// The interface called `ifname`.
///
/// # Errors
/// [`KernelError::NoInterface`], with the names there are.
pub async fn find(handle: &Handle, ifname: &str) -> Result<Link, KernelError> {
    match handle.link().get().match_name(ifname).execute().try_next().await {
        Ok(Some(message)) => Ok(parse(&message)),
        Ok(None) => Err(no_interface(handle, ifname).await?),
        Err(error) => {
            let absent = as_io(error.clone()).raw_os_error() == Some(ENODEV);
            Err(if absent {
                no_interface(handle, ifname).await?
            } else {
                refused(format!("look up {ifname}"))(error)
            })
        }
    }
}

/// The name of interface `ifindex`, or its number where it has gone meanwhile.
pub async fn name_of(handle: &Handle, ifindex: u32) -> String {
    match handle.link().get().match_index(ifindex).execute().try_next().await {
        Ok(Some(message)) => parse(&message).ifname,
        _ => format!("interface {ifindex}"),
    }
}

/// Sets the interface up, and its MTU in bytes where one is given.
///
/// # Errors
/// [`KernelError::NotPermitted`] or [`KernelError::Refused`].
pub async fn bring_up(handle: &Handle, link: &Link, mtu: Option<u32>) -> Result<(), KernelError> {
    let mtu = mtu.filter(|&mtu| mtu != link.mtu);
    if link.up && mtu.is_none() {
        return Ok(());
    }
    let message = LinkUnspec::new_with_index(link.ifindex).up();
    let message = mtu.into_iter().fold(message, LinkMessageBuilder::mtu);
    let what = match mtu {
        Some(mtu) => format!("bring up {} with mtu {mtu}", link.ifname),
        None => format!("bring up {}", link.ifname),
    };
    handle.link().set(message.build()).execute().await.map_err(refused(what))
}

/// The addresses on the interface, with their prefix lengths.
///
/// # Errors
/// [`KernelError::Refused`].
pub async fn addresses(handle: &Handle, link: &Link) -> Result<Vec<IpNet>, KernelError> {
    let request = handle.address().get().set_link_index_filter(link.ifindex).execute();
    let messages: Vec<_> =
        request.try_collect().await.map_err(refused(format!("list the addresses of {}", link.ifname)))?;
    let parse = |message: &netlink_packet_route::address::AddressMessage| {
        // IFA_LOCAL is the interface's own address; IFA_ADDRESS is the peer's on a point-to-point link.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let any = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        IpNet::new(local.or(any)?, message.header.prefix_len).ok()
    };
    Ok(messages.iter().filter_map(parse).collect())
}

fn parse(message: &LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        ifname: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        controller: None,
        mac: [0; 6],
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.ifname.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Controller(ifindex) if *ifindex != 0 => link.controller = Some(*ifindex),
            _ => {}
        }
    }
    link
}

async fn no_interface(handle: &Handle, ifname: &str) -> Result<KernelError, KernelError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(refused("list the interfaces"))?;
    let mut present: Vec<String> = links.iter().map(|message| parse(message).ifname).collect();
    present.sort_by(|a, b| strsim::jaro(b, ifname).total_cmp(&strsim::jaro(a, ifname)));
    Ok(KernelError::NoInterface { ifname: ifname.into(), present })
}
