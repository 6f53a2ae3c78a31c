//! ipvsadm's commands with all that can be said in them, and the way from words to them. What an option is, and which goes
//! with which command, stands in `options`; what the kernel makes of a command is not known here.
//!
//! Read first: ipvsadm(8), and the recorded `ipvsadm --help`.

mod error;
mod read;

use std::net::{IpAddr, SocketAddr};

use crate::rules::Protocol;

pub use error::CommandError;

/// One command line of ipvsadm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `-A`: one more service.
    AddService(VirtualService, ServiceOptions),
    /// `-E`: another scheduler, persistence and so on; what is not said is the default again.
    EditService(VirtualService, ServiceOptions),
    /// `-D`
    DeleteService(VirtualService),
    /// `-a`: one more real server of a service.
    AddServer(VirtualService, SocketAddr, ServerOptions),
    /// `-e`: another weight, forwarding and so on; what is not said is the default again.
    EditServer(VirtualService, SocketAddr, ServerOptions),
    /// `-d`
    DeleteServer(VirtualService, SocketAddr),
    /// `-C`: all services go.
    Clear,
    /// `-R`: commands come from the standard input, one a line, without the word `ipvsadm`.
    Restore,
    /// `-S`: the services as commands.
    Save {
        /// Ports, and hosts, as numbers.
        numeric: bool,
    },
    /// `-L`, `-l`, or nothing at all.
    List(List),
    /// `-Z`: counters begin anew, of one service or of all.
    Zero(Option<VirtualService>),
    /// `--set TCP TCPFIN UDP`
    SetTimeouts(Timeouts),
    /// `--start-daemon`: connections are told to a second director, or taken from it.
    StartDaemon(Daemon),
    /// `--stop-daemon`
    StopDaemon(DaemonState),
    /// `-h`
    Help,
}

/// What names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VirtualService {
    /// `-t`, `-u`, `--sctp-service`
    Address {
        /// TCP, UDP or SCTP.
        protocol: Protocol,
        /// The VIP.
        address: IpAddr,
        /// Host order; 0 is every port.
        l4_port: u16,
    },
    /// `-f`: whatever packets the firewall gave this mark.
    Mark {
        /// Not 0.
        mark: u32,
        /// `-6`
        is_ipv6: bool,
    },
}

/// What is said of a service beside its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    /// `-s`: the name of a scheduler, which the kernel may not have.
    pub scheduler: String,
    /// `-b`
    pub flags: SchedulerFlags,
    /// `-p`, `-M`
    pub persistence: Option<Persistence>,
    /// `--pe`: the name of a persistence engine.
    pub persistence_engine: Option<String>,
    /// `-o`
    pub one_packet: bool,
}

/// `-b`: by number, since the scheduler gives them their meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// `flag-1`: `sh-fallback`, `mh-fallback`.
    pub fallback: bool,
    /// `flag-2`: `sh-port`, `mh-port`.
    pub l4_port: bool,
    /// `flag-3`, which no scheduler reads.
    pub third: bool,
}

/// `-p`, `-M`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Seconds, not 0.
    pub timeout_s: u32,
    /// Leading bits of an address that make a client; none is the whole address.
    pub prefix_len: Option<u8>,
}

/// What is said of a real server beside its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// `-g`, `-i`, `-m`
    pub forwarding: Forwarding,
    /// `-w`; 0 gets nothing new.
    pub weight: u32,
    /// `-x`: from so many connections on it takes no new one; 0 is no bound.
    pub upper_threshold: u32,
    /// `-y`: below so many it takes new ones again; 0 is three quarters of the upper one.
    pub lower_threshold: u32,
}

/// How packets get to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// `-g`: direct routing.
    Gatewaying,
    /// `-m`: NAT.
    Masquerading,
    /// `-i`
    Tunnel(Tunnel),
}

/// `--tun-type` with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// IP in IP.
    Ipip,
    /// GUE in UDP.
    Gue {
        /// `--tun-port`, host order.
        l4_port: u16,
        /// Of the UDP header.
        checksum: Checksum,
    },
    /// GRE.
    Gre {
        /// Of the GRE header.
        checksum: Checksum,
    },
}

/// `--tun-nocsum`, `--tun-csum`, `--tun-remcsum`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// None.
    #[default]
    No,
    /// Over all of it.
    Yes,
    /// Left to the receiver.
    Remote,
}

/// What is listed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// This service alone.
    pub service: Option<VirtualService>,
    /// What of it.
    pub what: Listing,
    /// `-n`
    pub numeric: bool,
    /// `--exact`: numbers without units.
    pub exact: bool,
    /// `--nosort`
    pub unsorted: bool,
    /// `--persistent-conn`: with `-c`, whose templates they are.
    pub persistent_connections: bool,
}

/// Which of ipvsadm's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listing {
    /// Services and servers with weights and connections.
    #[default]
    Services,
    /// `-c`
    Connections,
    /// `--stats`
    Statistics,
    /// `--rate`
    Rates,
    /// `--thresholds`
    Thresholds,
    /// `--persistent-conn` without `-c`
    PersistentConnections,
    /// `--tun-info`
    Tunnels,
    /// `--timeout`
    Timeouts,
    /// `--daemon`
    Daemons,
}

/// `--set`: seconds, 0 leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Of established TCP connections.
    pub tcp_s: u32,
    /// Of TCP connections after a FIN.
    pub tcp_fin_s: u32,
    /// Of UDP.
    pub udp_s: u32,
}

/// Which side of the synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonState {
    /// Tells.
    Master,
    /// Is told.
    Backup,
}

/// `--start-daemon` with its options as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Which.
    pub state: DaemonState,
    /// By long name, without dashes: `syncid`, `mcast-interface` and so on.
    pub settings: Vec<(&'static str, String)>,
}
