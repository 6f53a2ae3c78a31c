//! Capture files: pcap (microseconds and nanoseconds, either byte order) and pcapng to read, pcap with
//! nanoseconds to write. Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
//!
//! Ethernet only: the line begins with an Ethernet header.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use pcap_parser::pcapng::{Block, EnhancedPacketBlock, InterfaceDescriptionBlock};
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{LegacyPcapBlock, Linktype, PcapBlockOwned, PcapError, create_reader};

/// The largest record: four times the largest packet that tcpdump takes (MAXIMUM_SNAPLEN, 262,144 bytes).
/// Whatever claims to be larger is damage.
const RECORD_MAX: usize = 1 << 20;
/// What a pcap file with nanoseconds begins with, in the byte order of its numbers.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The most digits or bits of a second's fraction that fit 64 bits: pcapng allows more, nobody writes them.
const RESOLUTION_DIGITS_MAX: u8 = 19;
const RESOLUTION_BITS_MAX: u8 = 63;

/// What is wrong with a capture file. `packet` counts from 1.
#[derive(Debug)]
pub enum CaptureError {
    /// It cannot be read or written.
    Io(io::Error),
    /// Neither pcap nor pcapng.
    NotACapture,
    /// Another link layer than Ethernet.
    LinkType(Linktype),
    /// It ends in the middle of something.
    Truncated {
        /// The packet that is missing or cut.
        packet: u64,
    },
    /// A record makes no sense.
    Damaged {
        /// The packet that it is or that comes after it.
        packet: u64,
    },
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::NotACapture => f.write_str("neither a pcap nor a pcapng file"),
            Self::LinkType(found) => {
                write!(
                    f,
                    "link type {found}: only Ethernet (1) can be replayed; capture on an Ethernet interface, not on \"any\""
                )
            }
            Self::Truncated { packet } => {
                write!(f, "the file ends where packet {packet} should be: the capture was cut short")
            }
            Self::Damaged { packet } => write!(f, "damaged at packet {packet}: the record makes no sense"),
        }
    }
}

impl std::error::Error for CaptureError {}

impl From<io::Error> for CaptureError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket {
    /// When it was captured, since the epoch.
    pub time: Duration,
    /// Its length on the wire in bytes; more than `frame` holds where the capture has a snapshot length.
    pub wire_len: usize,
    /// What was captured, from the Ethernet destination on.
    pub frame: Vec<u8>,
}

/// How an interface of a pcapng file tells the time.
struct Interface {
    linktype: Linktype,
    units_per_second: u64,
    offset_seconds: i64,
}

/// Reads a capture, packet by packet.
pub struct CaptureReader {
    reader: Box<dyn PcapReaderIterator + Send>,
    /// pcap: nanoseconds of one unit of the fraction.
    unit_ns: u64,
    /// pcapng: those of the current section.
    interfaces: Vec<Interface>,
    /// Packets read.
    packets: u64,
    /// When the last of them was captured.
    time: Duration,
}

impl CaptureReader {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`CaptureError`] when it cannot be read or is no capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
        }
        let reader = create_reader(RECORD_MAX, file).map_err(|error| match error {
            PcapError::Eof | PcapError::Incomplete(_) => CaptureError::Truncated { packet: 1 },
            PcapError::ReadError => io::Error::last_os_error().into(),
            _ => CaptureError::NotACapture,
        })?;
        Ok(Self { reader, unit_ns: 1_000, interfaces: Vec::new(), packets: 0, time: Duration::ZERO })
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// [`CaptureError`] when the file is damaged, cut short, or of another link layer.
    pub fn next_packet(&mut self) -> Result<Option<CapturedPacket>, CaptureError> {
        let packet = self.packets + 1;
        loop {
            let (record_len, found) = match self.reader.next() {
                Ok((record_len, PcapBlockOwned::NG(block))) => {
                    (record_len, read_block(&block, &mut self.interfaces, self.time, packet)?)
                }
                Ok((record_len, PcapBlockOwned::LegacyHeader(header))) => {
                    require_ethernet(header.network)?;
                    self.unit_ns = if header.is_nanosecond_precision() { 1 } else { 1_000 };
                    (record_len, None)
                }
                Ok((record_len, PcapBlockOwned::Legacy(record))) => {
                    (record_len, Some(legacy_packet(&record, self.unit_ns)))
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => {
                    self.reader.refill().map_err(|_| io::Error::last_os_error())?;
                    continue;
                }
                Err(PcapError::UnexpectedEof) => return Err(CaptureError::Truncated { packet }),
                Err(_) => return Err(CaptureError::Damaged { packet }),
            };
            self.reader.consume(record_len);
            if let Some(found) = found {
                (self.packets, self.time) = (packet, found.time);
                return Ok(Some(found));
            }
        }
    }
}

/// The packet in a block of a pcapng file, if it is one; else what the block says of those that follow.
/// `time` is that of the packet before.
fn read_block(
    block: &Block<'_>,
    interfaces: &mut Vec<Interface>,
    time: Duration,
    packet: u64,
) -> Result<Option<CapturedPacket>, CaptureError> {
    let damaged = CaptureError::Damaged { packet };
    match block {
        Block::SectionHeader(_) => interfaces.clear(),
        Block::InterfaceDescription(block) => interfaces.push(interface(block).ok_or(damaged)?),
        Block::EnhancedPacket(block) => {
            let interface = interfaces.get(block.if_id as usize).ok_or(damaged)?;
            require_ethernet(interface.linktype)?;
            return Ok(Some(enhanced_packet(block, interface)));
        }
        Block::SimplePacket(block) => {
            require_ethernet(interfaces.first().ok_or(damaged)?.linktype)?;
            // It carries no time (section 4.4).
            let (wire_len, frame) = (block.origlen as usize, block.packet_data().to_vec());
            return Ok(Some(CapturedPacket { time, wire_len, frame }));
        }
        // Statistics, names, comments.
        _ => {}
    }
    Ok(None)
}

fn require_ethernet(found: Linktype) -> Result<(), CaptureError> {
    if found == Linktype::ETHERNET { Ok(()) } else { Err(CaptureError::LinkType(found)) }
}

fn legacy_packet(record: &LegacyPcapBlock<'_>, unit_ns: u64) -> CapturedPacket {
    let fraction = Duration::from_nanos(u64::from(record.ts_usec) * unit_ns);
    CapturedPacket {
        time: Duration::from_secs(record.ts_sec.into()) + fraction,
        wire_len: record.origlen as usize,
        frame: record.data.to_vec(),
    }
}

/// `None` when its resolution is beyond 64 bits.
fn interface(block: &InterfaceDescriptionBlock<'_>) -> Option<Interface> {
    // if_tsresol (section 4.2): a negative power of 10, or of 2 when the highest bit is set.
    let exponent = block.if_tsresol & 0x7f;
    let units_per_second = match block.if_tsresol {
        0..=RESOLUTION_DIGITS_MAX => 10u64.pow(exponent.into()),
        0x80.. if exponent <= RESOLUTION_BITS_MAX => 1 << exponent,
        _ => return None,
    };
    Some(Interface { linktype: block.linktype, units_per_second, offset_seconds: block.if_tsoffset })
}

fn enhanced_packet(block: &EnhancedPacketBlock<'_>, interface: &Interface) -> CapturedPacket {
    let units = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
    let (seconds, fraction) = (units / interface.units_per_second, units % interface.units_per_second);
    let nanos = u128::from(fraction) * 1_000_000_000 / u128::from(interface.units_per_second);
    CapturedPacket {
        // A fraction is below one second.
        time: Duration::new(seconds.saturating_add_signed(interface.offset_seconds), nanos as u32),
        wire_len: block.origlen as usize,
        frame: block.packet_data().to_vec(),
    }
}

/// Writes a pcap file with nanoseconds.
pub struct CaptureWriter {
    file: BufWriter<File>,
}

impl CaptureWriter {
    /// Makes the file at `path`, or empties it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let (version_major, version_minor) = (2u16, 4u16);
        file.write_all(&MAGIC_NANOSECONDS.to_le_bytes())?;
        file.write_all(&version_major.to_le_bytes())?;
        file.write_all(&version_minor.to_le_bytes())?;
        // Time zone and accuracy: 0 in every file.
        file.write_all(&[0; 8])?;
        file.write_all(&(RECORD_MAX as u32).to_le_bytes())?;
        file.write_all(&Linktype::ETHERNET.0.to_le_bytes())?;
        Ok(Self { file })
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, time: Duration, wire_len: usize, frame: &[u8]) -> io::Result<()> {
        // The format's seconds have 32 bits, until 2106.
        let words = [time.as_secs() as u32, time.subsec_nanos(), frame.len() as u32, wire_len as u32];
        for word in words {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(frame)
    }

    /// Everything written reaches the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}
