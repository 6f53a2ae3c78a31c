//! Files in, files out: the pcap device hands over the bytes of the file and writes the same bytes again.
//!
//! Format: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>; libpcap, on the other side, is not ours.

mod support;

use dpdk::{Burst, Eal, Port, PortConfig};
use support::{TestPool, eal, single_queue_port};

/// 100 frames of 60 to 1,514 bytes, each with its own contents.
fn frames() -> Vec<Vec<u8>> {
    (0..100usize).map(|i| (0..60 + i * 1454 / 99).map(|byte| (byte * 7 + i) as u8).collect()).collect()
}

/// A capture file, little-endian, microseconds, Ethernet.
fn pcap_file(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, 1]);
    for (second, frame) in (0..).zip(frames) {
        let len = frame.len() as u32;
        file.extend(words(&[second, 0, len, len]));
        file.extend(frame);
    }
    file
}

/// The frames of a capture file; time stamps are the writer's own affair.
fn frames_of(mut file: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: &[u8]| u32::from_le_bytes(at[..4].try_into().expect("four bytes")) as usize;
    file = &file[24..];
    let mut frames = Vec::new();
    while !file.is_empty() {
        let (captured, original) = (word(&file[8..]), word(&file[12..]));
        assert_eq!(captured, original, "a whole frame");
        frames.push(file[16..16 + captured].to_vec());
        file = &file[16 + captured..];
    }
    frames
}

/// Each larger than an mbuf: net_pcap lays them out in several.
fn jumbo_frames() -> Vec<Vec<u8>> {
    [2_049, 4_096, 9_018, 16_000].map(|len| (0..len).map(|byte| (byte % 251) as u8).collect()).to_vec()
}

#[test]
fn captures_go_through_byte_for_byte() {
    let eal = eal("pcap");
    let pool = TestPool::new(&eal, "pcap");
    small_frames_go_through(&eal, &pool);
    jumbo_frames_come_in_several_mbufs_and_leave_as_they_came(&eal, &pool);
}

fn jumbo_frames_come_in_several_mbufs_and_leave_as_they_came(eal: &Eal, pool: &TestPool) {
    let directory = std::env::temp_dir().join(format!("xd-pcap-jumbo-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let (input, output) = (directory.join("in.pcap"), directory.join("out.pcap"));
    let frames = jumbo_frames();
    std::fs::write(&input, pcap_file(&frames)).expect("writable");
    let devargs = format!("net_pcap2,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let (port, mut rx, mut tx) = single_queue_port(eal, &devargs, pool);
    let mut burst = Burst::new();
    assert_eq!(rx.receive(&mut burst), frames.len());
    for (mbuf, frame) in burst.iter_mut().zip(&frames) {
        assert_eq!((mbuf.packet_len(), mbuf.data().len()), (frame.len(), 2_048));
        assert_eq!(mbuf.segments().collect::<Vec<_>>().concat(), *frame);
        // The front may be changed and moved without a look at what follows.
        assert!(mbuf.trim_front(12) && !mbuf.gather(2_048 + 1));
        mbuf.prepend(12).expect("what was trimmed").copy_from_slice(&frame[..12]);
    }
    assert_eq!(tx.transmit(&mut burst), frames.len());
    drop((port, rx, tx));
    assert_eq!(frames_of(&std::fs::read(&output).expect("written")), frames);
    std::fs::remove_dir_all(&directory).expect("removable");
}

fn small_frames_go_through(eal: &Eal, pool: &TestPool) {
    let directory = std::env::temp_dir().join(format!("xd-pcap-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let (input, output) = (directory.join("in.pcap"), directory.join("out.pcap"));
    let frames = frames();
    std::fs::write(&input, pcap_file(&frames)).expect("writable");

    let devargs = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let (port, mut rx, mut tx) = single_queue_port(eal, &devargs, pool);
    assert_eq!(forward_all(&mut rx, &mut tx), frames.len());
    drop((port, rx, tx));
    assert_eq!(frames_of(&std::fs::read(&output).expect("written")), frames);

    without_an_output_packets_are_dropped(pool, &input.display().to_string(), frames.len());
    std::fs::remove_dir_all(&directory).expect("removable");
}

fn forward_all(rx: &mut dpdk::RxQueue, tx: &mut dpdk::TxQueue) -> usize {
    let (mut burst, mut total) = (Burst::new(), 0);
    while rx.receive(&mut burst) > 0 {
        total += tx.transmit(&mut burst);
        assert!(burst.is_empty(), "a file takes all");
    }
    total
}

fn without_an_output_packets_are_dropped(pool: &TestPool, input: &str, frame_count: usize) {
    let mut port = Port::attach(pool.eal(), &format!("net_pcap1,rx_pcap={input}")).expect("attach");
    port.configure(&PortConfig::default(), pool).expect("configure");
    let (mut rx, mut tx) = port.start().expect("start");
    assert_eq!(forward_all(&mut rx[0], &mut tx[0]), frame_count);
}
