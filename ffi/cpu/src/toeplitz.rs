//! The Toeplitz hash of receive-side scaling: what a NIC computes to choose a queue, computed here to predict
//! it.
//!
//! Source: Microsoft, "RSS hashing functions" (the vectors below are its "Verifying the RSS hash
//! calculation").

/// The hash of `input` under `key`, host order.
///
/// `input` is the concatenation of the fields in network order: for TCP and UDP over IPv4 the source address,
/// the destination address, the source l4 port, the destination l4 port. A key has at least `input.len() + 4`
/// bytes (NICs use 40 or 52); key bytes that are missing count as zero, as if the key ended in zeros.
#[inline]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let key_byte = |index: usize| u64::from(key.get(index).copied().unwrap_or(0));
    // The 40 key bits that the eight bits of the current input byte look at, the oldest highest.
    let mut window = (0..4).fold(0, |bits, index| bits << 8 | key_byte(index));
    let mut hash = 0;
    for (index, &byte) in input.iter().enumerate() {
        window = (window << 8 | key_byte(index + 4)) & 0xff_ffff_ffff;
        for bit in 0..8 {
            // All ones where the input bit is one: no branch, the input is random.
            let chosen = u32::from(byte >> (7 - bit) & 1).wrapping_neg();
            hash ^= (window >> (8 - bit)) as u32 & chosen;
        }
    }
    hash
}

/// [`toeplitz`] under one key for inputs of `LEN` bytes, as a sum of what each byte adds: the hash is linear, so
/// one look at a table a byte does what eight steps do. `LEN` KiB; of each KiB an input touches one line.
#[derive(Clone, Debug)]
pub struct ToeplitzTable<const LEN: usize> {
    /// By position and value of a byte.
    bytes: Box<[[u32; 256]; LEN]>,
}

impl<const LEN: usize> ToeplitzTable<LEN> {
    /// The table of `key`.
    pub fn new(key: &[u8]) -> Self {
        let mut bytes = Box::new([[0; 256]; LEN]);
        for (position, values) in bytes.iter_mut().enumerate() {
            for (byte, value) in (0..=u8::MAX).zip(values) {
                let mut input = [0; LEN];
                input[position] = byte;
                *value = toeplitz(key, &input);
            }
        }
        Self { bytes }
    }

    /// The hash of `input`.
    #[inline(always)]
    pub fn hash(&self, input: &[u8; LEN]) -> u32 {
        self.bytes.iter().zip(input).fold(0, |hash, (values, byte)| hash ^ values[usize::from(*byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    const MICROSOFT_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn octets(address: &SocketAddr) -> Vec<u8> {
        match address {
            SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
            SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
        }
    }

    /// Destination, source, hash of the addresses alone, hash with the l4 ports.
    #[test]
    fn microsofts_vectors() {
        let vectors = [
            ("161.142.100.80:1766", "66.9.149.187:2794", 0x323e_8fc2, 0x51cc_c178),
            ("65.69.140.83:4739", "199.92.111.2:14230", 0xd718_262a, 0xc626_b0ea),
            ("12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0_a5de, 0x5c2b_394a),
            ("209.142.163.6:2217", "38.27.205.30:48228", 0x8298_9176, 0xafc7_327f),
            ("202.188.127.2:1303", "153.39.163.191:44251", 0x5d18_09c5, 0x10e8_28a2),
            ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc1_8cd5, 0x4020_7d3d),
            ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c_461c, 0xdde5_1bbf),
            (
                "[fe80::200:f8ff:fe21:67cf]:38024",
                "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
                0x4b61_e985,
                0x02d1_feef,
            ),
        ];
        for (destination, source, addresses_hash, ports_hash) in vectors {
            let destination: SocketAddr = destination.parse().unwrap();
            let source: SocketAddr = source.parse().unwrap();
            let mut input = [octets(&source), octets(&destination)].concat();
            assert_eq!(toeplitz(&MICROSOFT_KEY, &input), addresses_hash, "{source} -> {destination}");
            input.extend(source.port().to_be_bytes());
            input.extend(destination.port().to_be_bytes());
            assert_eq!(toeplitz(&MICROSOFT_KEY, &input), ports_hash, "{source} -> {destination}");
        }
    }

    /// The definition, bit by bit: every one in the input adds the 32 key bits that begin at its position.
    fn by_definition(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], index: usize| bytes[index / 8] >> (7 - index % 8) & 1;
        let key_word = |start: usize| (0..32).fold(0, |word, i| word << 1 | u32::from(bit(key, start + i)));
        (0..input.len() * 8).filter(|&i| bit(input, i) == 1).fold(0, |hash, i| hash ^ key_word(i))
    }

    proptest! {
        #[test]
        fn equals_the_definition(key: [u8; 32], input in prop::collection::vec(any::<u8>(), 0..=28)) {
            prop_assert_eq!(toeplitz(&key, &input), by_definition(&key, &input));
        }

        #[test]
        fn a_table_says_the_same(key: [u8; 40], input: [u8; 12]) {
            prop_assert_eq!(ToeplitzTable::new(&key).hash(&input), toeplitz(&key, &input));
        }
    }

    #[test]
    fn a_short_key_is_as_if_it_ended_in_zeros() {
        let mut long = [0; 20];
        long[..6].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(toeplitz(&long[..6], &[0xff; 12]), toeplitz(&long, &[0xff; 12]));
        assert_eq!(toeplitz(&[], &[0xff; 12]), 0);
    }
}
