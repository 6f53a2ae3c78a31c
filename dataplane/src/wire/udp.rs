//! The UDP header. Read first: RFC 768.

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Offset of the length.
pub const LENGTH_AT: usize = 4;
/// Offset of the checksum.
pub const CHECKSUM_AT: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_agree_with_an_independent_encoder() {
        let bytes =
            etherparse::UdpHeader { source_port: 1, destination_port: 2, length: 0x0123, checksum: 0xbeef }
                .to_bytes();
        assert_eq!(bytes[LENGTH_AT..LENGTH_AT + 2], [0x01, 0x23]);
        assert_eq!(bytes[CHECKSUM_AT..CHECKSUM_AT + 2], [0xbe, 0xef]);
        assert_eq!(bytes.len(), HEADER_LEN);
    }
}
