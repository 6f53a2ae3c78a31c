//! The kernel module against a real kernel: namespaces without names, veth pairs, and a peer whose own kernel
//! answers ARP and ping. Needs root, iproute2, iputils-arping, iputils-ping, nftables, tcpdump and python3.

mod neighbours;
mod netns;
mod shield;
mod twin;
