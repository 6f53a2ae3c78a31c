//! Sends Ethernet frames by an interface of the kernel: AF_PACKET, whose address neither std nor nix makes without `unsafe`.
//!
//! It receives nothing. Read first: packet(7).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket that sends by one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    ifindex: i32,
}

impl PacketSocket {
    /// For the interface with this number.
    ///
    /// # Errors
    /// Without CAP_NET_RAW (`EPERM`), or when no descriptor is left.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Protocol 0: no frame is ever received.
        // SAFETY: takes any numbers, and touches no memory of ours.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `socket` has just given this descriptor to us alone, and it is none of the negative ones.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, ifindex })
    }

    /// Sends a frame: MACs, EtherType and what follows, without FCS.
    ///
    /// # Errors
    /// When the interface is gone (`ENXIO`, `ENODEV`), down (`ENETDOWN`), or its queue full (`ENOBUFS`).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: self.ifindex,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `frame` is readable for its length and `to` for the size that is given, both for as long as the call takes,
        // and the kernel keeps neither; `to` is of the family that the socket is.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback is there in every network namespace; number 1, and up where anything runs.
    #[test]
    fn a_frame_is_sent_and_an_interface_that_is_not_there_is_an_error() {
        let socket = PacketSocket::open(1).expect("root, or CAP_NET_RAW, as the README says");
        // EtherType 0x88b5 is for experiments (IEEE 802).
        let mut frame = [0u8; 60];
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        socket.send(&frame).expect("loopback takes it");
        let nowhere = PacketSocket::open(0x7fff_ffff).expect("a socket");
        assert_eq!(nowhere.send(&frame).expect_err("no such interface").raw_os_error(), Some(libc::ENXIO));
        assert!(PacketSocket::open(u32::MAX).is_err());
    }
}
