//! Captures that net_pcap replays without end: `net_pcap0,rx_pcap=FILE,infinite_rx=1`.
//!
//! The driver keeps a whole file in mbufs and refuses to start when there are too few (PCAP Poll Mode Driver guide,
//! 22.11, "Runtime Config Options"), so the mempool must be made for it.

use std::path::Path;

use crate::capture::CaptureReader;

/// More than any mempool can hold; keeps sums of several files within 32 bits.
const PACKETS_MAX: u32 = 1 << 28;

/// Packets of the files that a device of these devargs keeps in mbufs: 0 unless it is net_pcap with `infinite_rx=1`.
/// A file that cannot be read counts what could be: to complain of it is the driver's part.
pub fn packets_held(devargs: &str) -> u32 {
    let mut arguments = devargs.split(',');
    let is_pcap = arguments.next().is_some_and(|name| name.starts_with("net_pcap"));
    if !is_pcap || !arguments.clone().any(|argument| argument == "infinite_rx=1") {
        return 0;
    }
    let files = arguments.filter_map(|argument| argument.strip_prefix("rx_pcap="));
    files.map(|path| packet_count(Path::new(path))).fold(0, |sum, count| PACKETS_MAX.min(sum + count))
}

fn packet_count(path: &Path) -> u32 {
    let Ok(mut reader) = CaptureReader::open(path) else { return 0 };
    let mut count = 0;
    while count < PACKETS_MAX && matches!(reader.next_packet(), Ok(Some(_))) {
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A pcap file of `count` empty packets (draft-ietf-opsawg-pcap), little-endian, Ethernet.
    fn capture(count: usize) -> Vec<u8> {
        let header = [0xa1b2_c3d4u32, 2 | 4 << 16, 0, 0, 65_535, 1];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(bytes.len() + 16 * count, 0);
        bytes
    }

    #[test]
    fn what_is_replayed_without_end_is_counted_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("three"), capture(3)).unwrap();
        fs::write(path("cut"), &capture(5)[..24 + 4 * 16 + 7]).unwrap();
        let held = |text: &str| packets_held(text);
        assert_eq!(held(&format!("net_pcap0,rx_pcap={},infinite_rx=1", path("three"))), 3);
        let two = format!("net_pcap0,infinite_rx=1,rx_pcap={},rx_pcap={}", path("three"), path("cut"));
        assert_eq!(held(&two), 3 + 4);
        assert_eq!(held(&format!("net_pcap0,rx_pcap={}", path("three"))), 0);
        assert_eq!(held(&format!("net_pcap0,rx_pcap={},infinite_rx=1", path("missing"))), 0);
        assert_eq!(held(&format!("net_null0,rx_pcap={},infinite_rx=1", path("three"))), 0);
    }
}
