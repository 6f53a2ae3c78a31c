//! What a port is made of: the `device = "..."` grammar and nothing of DPDK's own spelling, which launch
//! makes from it.

use std::fmt;
use std::path::PathBuf;

use super::error::Problem;
use super::near::nearest;

/// The device behind a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// `pcap:IN[,OUT]`: packets from one file, packets to another; without `OUT` what is sent is dropped.
    Pcap {
        /// Read from its beginning to its end.
        input: PathBuf,
        /// Created or overwritten; another file than `input`.
        output: Option<PathBuf>,
    },
    /// `af_packet:IFACE`: a packet socket on a kernel interface.
    AfPacket {
        /// The kernel's name for it, at most 15 bytes.
        interface: String,
    },
    /// `af_xdp:IFACE`: an XDP socket on a kernel interface.
    AfXdp {
        /// The kernel's name for it, at most 15 bytes.
        interface: String,
    },
    /// `tap:NAME`: a TAP interface that is made at start.
    Tap {
        /// The name it gets, at most 15 bytes.
        interface: String,
    },
    /// `memif:SOCKET`: shared memory with another process.
    Memif {
        /// Path of the control socket, at most 107 bytes.
        socket: PathBuf,
    },
    /// `ring`: what is sent comes back.
    Ring,
    /// `null`: receives empty packets without end, forgets what is sent.
    Null,
    /// A PCI address with its domain, as lspci -D prints it: `0000:03:00.0`.
    Pci {
        /// Lower case.
        address: String,
    },
    /// Raw DPDK devargs beginning with `net_`, handed on as they are.
    Devargs(String),
}

/// A DPDK driver that stands on an interface of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelDriver {
    /// `net_af_packet`: the kernel sees the packets too.
    AfPacket,
    /// `net_af_xdp`: an XDP program takes them before the kernel.
    AfXdp,
    /// `net_pcap` with `iface=`: libpcap's packet socket, so that the kernel sees the packets too.
    Pcap,
    /// `net_tap`: it makes the interface itself.
    Tap,
}

const KINDS: [&str; 7] = ["pcap", "af_packet", "af_xdp", "tap", "memif", "ring", "null"];

const GRAMMAR: &str = "a device is `pcap:IN[,OUT]`, `af_packet:IFACE`, `af_xdp:IFACE`, `tap:NAME`, \
     `memif:SOCKET`,\n\
     `ring`, `null`, a PCI address such as `0000:03:00.0`, or DPDK devargs that begin with `net_`";

/// The kernel's IFNAMSIZ is 16 with the NUL (linux/if.h).
const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// `sun_path` is 108 bytes with the NUL (linux/un.h).
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Device {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        if text.starts_with("net_") {
            return devargs(text);
        }
        if let Some(address) = pci_address(text) {
            return Ok(Self::Pci { address });
        }
        match text.split_once(':') {
            Some(("pcap", files)) => pcap(text, files),
            Some(("af_packet", name)) => Ok(Self::AfPacket { interface: interface(text, name)? }),
            Some(("af_xdp", name)) => Ok(Self::AfXdp { interface: interface(text, name)? }),
            Some(("tap", name)) => Ok(Self::Tap { interface: interface(text, name)? }),
            Some(("memif", path)) => Ok(Self::Memif { socket: memif_socket(text, path)? }),
            None if text == "ring" => Ok(Self::Ring),
            None if text == "null" => Ok(Self::Null),
            _ => Err(unknown(text)),
        }
    }

    /// The driver and the kernel's interface it stands on, also where raw devargs name them. A driver whose interface
    /// is not named there gets the empty name.
    pub fn kernel_interface(&self) -> Option<(KernelDriver, &str)> {
        match self {
            Self::AfPacket { interface } => Some((KernelDriver::AfPacket, interface)),
            Self::AfXdp { interface } => Some((KernelDriver::AfXdp, interface)),
            Self::Tap { interface } => Some((KernelDriver::Tap, interface)),
            Self::Devargs(text) => kernel_interface_of_devargs(text),
            _ => None,
        }
    }

    /// What no second port may use, in words; devices of which there are as many as one likes claim nothing.
    pub(super) fn claims(&self) -> Vec<String> {
        let named = match self {
            Self::Pcap { output, .. } => {
                output.as_ref().map(|path| format!("output file {}", path.display()))
            }
            Self::Memif { socket } => Some(format!("memif socket {}", socket.display())),
            Self::Pci { address } => Some(format!("PCI device {address}")),
            Self::Devargs(text) => Some(format!("device {}", text.split(',').next().unwrap_or(text))),
            Self::AfPacket { .. } | Self::AfXdp { .. } | Self::Tap { .. } | Self::Ring | Self::Null => None,
        };
        let interface = self.kernel_interface().map(|(_, interface)| interface);
        let interface = interface.filter(|interface| !interface.is_empty()).map(interface_claim);
        named.into_iter().chain(interface).collect()
    }
}

/// The interface of a port's kernel twin.
pub fn twin_ifname(port_name: &str) -> String {
    format!("xd-{port_name}")
}

/// What a port that uses the kernel's interface `ifname` claims, its kernel twin's included.
pub(super) fn interface_claim(ifname: &str) -> String {
    format!("interface {ifname}")
}

impl fmt::Display for Device {
    /// As it is written in the rules.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcap { input, output: None } => write!(f, "pcap:{}", input.display()),
            Self::Pcap { input, output: Some(output) } => {
                write!(f, "pcap:{},{}", input.display(), output.display())
            }
            Self::AfPacket { interface } => write!(f, "af_packet:{interface}"),
            Self::AfXdp { interface } => write!(f, "af_xdp:{interface}"),
            Self::Tap { interface } => write!(f, "tap:{interface}"),
            Self::Memif { socket } => write!(f, "memif:{}", socket.display()),
            Self::Ring => f.write_str("ring"),
            Self::Null => f.write_str("null"),
            Self::Pci { address } => f.write_str(address),
            Self::Devargs(text) => f.write_str(text),
        }
    }
}

fn invalid(text: &str, what: &str) -> Problem {
    Problem::new(format!("{text:?} is not a device: {what}")).help(GRAMMAR)
}

fn unknown(text: &str) -> Problem {
    let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    let problem = Problem::new(format!("{text:?} is not a device")).help(GRAMMAR);
    if pci_address(&format!("0000:{text}")).is_some() {
        return problem.label(format!("did you mean `0000:{text}`? a PCI address has its domain in front"));
    }
    if KINDS.contains(&kind) {
        let surplus = matches!(kind, "ring" | "null");
        return problem.label(if surplus {
            format!("`{kind}` takes nothing after it")
        } else {
            format!("`{kind}` of what?")
        });
    }
    match (nearest(kind, KINDS), rest) {
        (Some(meant), Some(rest)) => problem.label(format!("did you mean `{meant}:{rest}`?")),
        (Some(meant), None) => problem.label(format!("did you mean `{meant}`?")),
        (None, None) => problem.label(format!("an interface? then `af_packet:{text}`")),
        (None, Some(_)) => problem,
    }
}

fn interface(text: &str, name: &str) -> Result<String, Problem> {
    // What dev_valid_name in the kernel refuses, and the comma, at which DPDK's devargs end.
    let refused = |c: char| c == '/' || c == ':' || c == ',' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." || name.contains(refused) {
        return Err(invalid(text, "an interface name is not empty and has no `/`, `:`, `,` or space"));
    }
    if name.len() > INTERFACE_NAME_BYTES_MAX {
        let what = format!(
            "an interface name has at most {INTERFACE_NAME_BYTES_MAX} bytes, this one {}",
            name.len()
        );
        return Err(invalid(text, &what));
    }
    Ok(name.to_owned())
}

fn pcap(text: &str, files: &str) -> Result<Device, Problem> {
    let names: Vec<&str> = files.split(',').collect();
    if names.iter().any(|name| name.is_empty()) {
        return Err(invalid(text, "a file name is empty"));
    }
    match names[..] {
        [input] => Ok(Device::Pcap { input: input.into(), output: None }),
        [input, output] if input == output => Err(invalid(text, "it would overwrite the file it reads")),
        [input, output] => Ok(Device::Pcap { input: input.into(), output: Some(output.into()) }),
        _ => Err(invalid(text, "one input and at most one output; a file name has no comma")),
    }
}

fn memif_socket(text: &str, path: &str) -> Result<PathBuf, Problem> {
    if path.is_empty() || path.contains(',') {
        return Err(invalid(text, "the socket's path is not empty and has no comma"));
    }
    if path.len() > SOCKET_PATH_BYTES_MAX {
        return Err(invalid(text, &format!("a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes")));
    }
    Ok(path.into())
}

fn devargs(text: &str) -> Result<Device, Problem> {
    let driver = text.split(',').next().unwrap_or(text);
    if driver.len() == "net_".len() || text.contains(char::is_whitespace) {
        return Err(invalid(text, "devargs are `net_DRIVER[,key=value]...` without spaces"));
    }
    Ok(Device::Devargs(text.to_owned()))
}

/// A driver's name is what EAL's virtual-device bus looks at: the beginning of the device's.
fn kernel_interface_of_devargs(text: &str) -> Option<(KernelDriver, &str)> {
    let drivers = [
        ("net_af_packet", KernelDriver::AfPacket),
        ("net_af_xdp", KernelDriver::AfXdp),
        ("net_pcap", KernelDriver::Pcap),
        ("net_tap", KernelDriver::Tap),
    ];
    let (_, driver) = drivers.into_iter().find(|(name, _)| text.starts_with(name))?;
    let interface = text.split(',').find_map(|argument| argument.strip_prefix("iface="));
    if driver == KernelDriver::Pcap && interface.is_none() {
        // Files.
        return None;
    }
    Some((driver, interface.unwrap_or_default()))
}

/// `DDDD:BB:DD.F`, hexadecimal; the device below 32 and the function below 8.
fn pci_address(text: &str) -> Option<String> {
    let (front, function) = text.split_once('.')?;
    let mut parts = front.split(':');
    let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, digits: usize| {
        (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .then(|| u32::from_str_radix(part, 16).ok())?
    };
    hex(domain, 4)?;
    hex(bus, 2)?;
    (parts.next().is_none() && hex(device, 2)? < 32 && hex(function, 1)? < 8).then(|| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_valid_prints_as_it_was_written() {
        for text in [
            "pcap:in.pcap",
            "pcap:in.pcap,out.pcap",
            "af_packet:eth0",
            "af_xdp:enp3s0f0np0",
            "tap:xd0",
            "memif:/run/x.sock",
            "ring",
            "null",
            "0000:03:00.0",
            "net_pcap0,rx_pcap=in.pcap,infinite_rx=1",
        ] {
            let device = Device::parse(text).unwrap_or_else(|problem| panic!("{problem:?}"));
            assert_eq!(device.to_string(), text);
        }
    }

    #[test]
    fn raw_devargs_stand_on_the_same_interfaces() {
        let claims =
            |text: &str| Device::parse(text).unwrap_or_else(|problem| panic!("{problem:?}")).claims();
        assert_eq!(claims("af_packet:eth1"), ["interface eth1"]);
        assert_eq!(claims("net_af_packet0,qpairs=1,iface=eth1"), ["device net_af_packet0", "interface eth1"]);
        assert_eq!(claims("net_tap0"), ["device net_tap0"]);
        assert_eq!(claims("net_pcap0,iface=eth1"), ["device net_pcap0", "interface eth1"]);
        assert_eq!(claims("net_pcap0,rx_pcap=in.pcap"), ["device net_pcap0"]);
        let devargs = Device::Devargs("net_af_xdp1,iface=eth1,start_queue=0".into());
        assert_eq!(devargs.kernel_interface(), Some((KernelDriver::AfXdp, "eth1")));
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        for text in [
            "",
            "eth0",
            "af_packet",
            "af_packet:",
            "af_packet:a/b",
            "af_packet:a b",
            "tap:sixteen-bytes-xx",
            "ring:1",
            "pcap:",
            "pcap:a,",
            "pcap:,a",
            "pcap:a,b,c",
            "pcap:a,a",
            "memif:",
            "net_",
            "net_pcap0, x",
            "03:00.0",
            "0000:03:20.0",
            "0000:03:00.8",
            "0000:03:0é.0",
        ] {
            assert!(Device::parse(text).is_err(), "{text:?}");
        }
    }
}
