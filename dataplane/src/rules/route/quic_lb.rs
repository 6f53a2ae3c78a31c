//! The server ID in a QUIC connection ID, as servers put it there after draft-ietf-quic-load-balancers-21 (QUIC-LB). Read
//! first: its sections 3 (first octet) and 5 (encoding, and what a load balancer does).
//!
//! In the clear, or encrypted with AES-128: one block where server ID and nonce are 16 bytes together, else a Feistel
//! network of four rounds, of which three are undone where the nonce is as long as the server ID. Not here: what a
//! server does (tests have it), and whether a server ID is anybody's.

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// Bytes of server ID and nonce together at most: QUIC version 1 has connection IDs of at most 20 bytes.
pub const PLAINTEXT_LEN_MAX: usize = 19;
/// Bytes of a server ID at most: what the shortest nonce leaves.
pub const SERVER_ID_LEN_MAX: usize = PLAINTEXT_LEN_MAX - NONCE_LEN_MIN;
/// Bytes of a nonce at least.
pub const NONCE_LEN_MIN: usize = 4;
/// Configurations there may be at once; the eighth code point says that there is none.
pub const CONFIGURATIONS_MAX: usize = 7;
/// Where server ID and nonce are exactly a block of the cipher, they are encrypted as one.
const BLOCK_LEN: usize = 16;

/// How servers make connection IDs, by configuration: the first three bits of an ID say which one it is of.
#[derive(Clone, Debug, Default)]
pub struct QuicLb {
    configurations: [Option<Configuration>; CONFIGURATIONS_MAX],
}

/// How servers with one configuration make connection IDs.
#[derive(Clone, Debug)]
pub struct Configuration {
    server_id_len: usize,
    nonce_len: usize,
    /// Without a key the server ID is in the clear.
    cipher: Option<Aes128>,
    /// Servers write the length of what follows the first byte into its last five bits.
    encodes_length: bool,
}

/// Lengths that the draft does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthError;

impl Configuration {
    /// Lengths are in bytes.
    ///
    /// # Errors
    /// [`LengthError`] for a server ID without a byte, a nonce of less than four, or more than 19 of both.
    pub fn new(
        server_id_len: usize,
        nonce_len: usize,
        key: Option<[u8; 16]>,
        encodes_length: bool,
    ) -> Result<Self, LengthError> {
        let is_possible = server_id_len >= 1
            && nonce_len >= NONCE_LEN_MIN
            && server_id_len + nonce_len <= PLAINTEXT_LEN_MAX;
        let cipher = key.map(|key| Aes128::new(&key.into()));
        is_possible.then_some(Self { server_id_len, nonce_len, cipher, encodes_length }).ok_or(LengthError)
    }

    /// The server ID in the connection ID that `id` begins with, as a number; `id_len` is its length where that is known.
    fn server_id(&self, id: &[u8], id_len: Option<usize>) -> Option<u128> {
        let (&first, rest) = id.split_first()?;
        let plaintext_len = self.server_id_len + self.nonce_len;
        if self.encodes_length {
            let said = usize::from(first & 0b1_1111);
            if said < plaintext_len || id_len.is_some_and(|len| len != said + 1) {
                return None;
            }
        }
        let octets = rest.get(..plaintext_len)?;
        let head = match &self.cipher {
            None => head_of(octets),
            Some(cipher) => match octets.try_into() {
                Ok(block) => u128::from_be_bytes(decrypted(cipher, block)),
                Err(_) => self.after_rounds(cipher, octets),
            },
        };
        // A server ID is 1 to 15 bytes.
        Some(head >> (128 - 8 * self.server_id_len))
    }

    /// Undoes the rounds of the Feistel network, as many as the server ID needs; returns the first 16 bytes of the
    /// plaintext, of which the server ID is right.
    ///
    /// A half is in the high bits of a word, as `expand` of the draft places it: of an odd number of bytes the left half
    /// lacks the last four bits, the right one the first four.
    fn after_rounds(&self, cipher: &Aes128, octets: &[u8]) -> u128 {
        let len = octets.len();
        let half_len = len.div_ceil(2);
        let odd_bits = if len % 2 == 1 { 4 } else { 0 };
        let half = !(u128::MAX >> (8 * half_len));
        let (left_half, right_half) = (half << odd_bits & half, half & (u128::MAX >> odd_bits));
        let result = |pass: u8, half: u128| encrypted(cipher, half | (len as u128) << 8 | u128::from(pass));
        let mut left = head_of(octets) & left_half;
        let mut right = head_of(octets.get(len - half_len..).unwrap_or_default()) & right_half;
        left ^= result(4, right) & left_half;
        right ^= result(3, left) & right_half;
        left ^= result(2, right) & left_half;
        if self.server_id_len > self.nonce_len {
            right ^= result(1, left) & right_half;
        }
        left | (right << odd_bits) >> (4 * len)
    }
}

impl QuicLb {
    /// Has IDs whose first three bits are `code_point` read by `configuration`; false where there is no such code point.
    #[must_use]
    pub fn set(&mut self, code_point: u8, configuration: Configuration) -> bool {
        let place = self.configurations.get_mut(usize::from(code_point));
        place.map(|place| *place = Some(configuration)).is_some()
    }

    /// The bytes of a connection ID that say its server ID, where it costs something to read them: they are encrypted.
    pub fn encrypted<'a>(&self, id: &'a [u8]) -> Option<&'a [u8]> {
        let code_point = usize::from(id.first()? >> 5);
        let Configuration { server_id_len, nonce_len, cipher, .. } =
            self.configurations.get(code_point)?.as_ref()?;
        cipher.as_ref()?;
        id.get(..1 + server_id_len + nonce_len)
    }

    /// The server ID in the connection ID that `id` begins with, as a number; `id_len` is its length where that is known.
    /// `None` where the ID is of no known configuration, or too short.
    pub fn server_id(&self, id: &[u8], id_len: Option<usize>) -> Option<u128> {
        let code_point = usize::from(id.first()? >> 5);
        self.configurations.get(code_point)?.as_ref()?.server_id(id, id_len)
    }
}

/// The first 16 bytes, those that are missing as zero.
fn head_of(octets: &[u8]) -> u128 {
    let mut head = [0; BLOCK_LEN];
    for (to, from) in head.iter_mut().zip(octets) {
        *to = *from;
    }
    u128::from_be_bytes(head)
}

fn encrypted(cipher: &Aes128, block: u128) -> u128 {
    let mut block = block.to_be_bytes().into();
    cipher.encrypt_block(&mut block);
    u128::from_be_bytes(block.into())
}

fn decrypted(cipher: &Aes128, block: [u8; BLOCK_LEN]) -> [u8; BLOCK_LEN] {
    let mut block = block.into();
    cipher.decrypt_block(&mut block);
    block.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn number(octets: &[u8]) -> u128 {
        octets.iter().fold(0, |number, octet| number << 8 | u128::from(*octet))
    }

    const KEY: &str = "8f95f09245765f80256934e50c66207f";

    /// Appendix B of the draft: code point, server ID, nonce, connection ID; the key where there is one. First bytes of the
    /// second and the last are as section 3 has them: the draft prints the bits of the second side by side ("20a", and its
    /// nonce without the first 0), and the last without its code point ("12").
    const VECTORS: [(u8, &str, &str, &str, Option<&str>); 6] = [
        (0, "c4605e", "4504cc4f", "07c4605e4504cc4f", None),
        (1, "350d28b420", "03487d970b", "2a350d28b42003487d970b", None),
        (0, "ed793a", "ee080dbf", "0720b1d07b359d3c", Some(KEY)),
        (1, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2", Some(KEY)),
        (2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3", Some(KEY)),
        (3, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc", Some(KEY)),
    ];

    fn configuration(server_id_len: usize, nonce_len: usize, key: Option<&str>) -> Configuration {
        let key = key.map(|key| bytes(key).try_into().unwrap());
        Configuration::new(server_id_len, nonce_len, key, true).unwrap()
    }

    /// What a server does, section 5.4 of the draft word by word: halves in bytes, `clear` and all.
    fn encoded(code_point: u8, server_id: &[u8], nonce: &[u8], key: Option<[u8; 16]>) -> Vec<u8> {
        let plaintext = [server_id, nonce].concat();
        let len = plaintext.len();
        let first = code_point << 5 | len as u8;
        let Some(key) = key else { return [&[first][..], &plaintext].concat() };
        let cipher = Aes128::new(&key.into());
        if len == 16 {
            let block = encrypted(&cipher, u128::from_be_bytes(plaintext.try_into().unwrap()));
            return [&[first][..], &block.to_be_bytes()].concat();
        }
        let (half_len, odd) = (len.div_ceil(2), len % 2 == 1);
        let mut halves = [plaintext[..half_len].to_vec(), plaintext[len - half_len..].to_vec()];
        let clear = |half: &mut Vec<u8>, is_left: bool| match (odd, is_left) {
            (true, true) => *half.last_mut().unwrap() &= 0xf0,
            (true, false) => half[0] &= 0x0f,
            _ => {}
        };
        clear(&mut halves[0], true);
        clear(&mut halves[1], false);
        for pass in 1..=4u8 {
            let to = usize::from(pass % 2);
            let mut expanded = [0; 16];
            expanded[..half_len].copy_from_slice(&halves[1 - to]);
            (expanded[14], expanded[15]) = (len as u8, pass);
            let result = encrypted(&cipher, u128::from_be_bytes(expanded)).to_be_bytes();
            halves[to].iter_mut().zip(result).for_each(|(octet, result)| *octet ^= result);
            clear(&mut halves[to], to == 0);
        }
        let [left, mut right] = halves;
        let mut id = [vec![first], left].concat();
        if odd {
            *id.last_mut().unwrap() |= right.remove(0);
        }
        [id, right].concat()
    }

    #[test]
    fn the_drafts_vectors_are_read_and_made() {
        for (code_point, server_id, nonce, id, key) in VECTORS {
            let (server_id, nonce, id) = (bytes(server_id), bytes(nonce), bytes(id));
            let mut quic_lb = QuicLb::default();
            assert!(quic_lb.set(code_point, configuration(server_id.len(), nonce.len(), key)));
            assert_eq!(quic_lb.server_id(&id, Some(id.len())), Some(number(&server_id)), "{id:02x?}");
            assert_eq!(quic_lb.server_id(&[&id[..], &[9; 30]].concat(), None), Some(number(&server_id)));
            let key = key.map(|key| bytes(key).try_into().unwrap());
            assert_eq!(encoded(code_point, &server_id, &nonce, key), id);
        }
    }

    #[test]
    fn the_drafts_example_of_section_5_is_read() {
        let key = bytes("fdf726a9893ec05c0632d3956680baf0").try_into().unwrap();
        let mut quic_lb = QuicLb::default();
        assert!(quic_lb.set(0, Configuration::new(3, 4, Some(key), false).unwrap()));
        assert_eq!(quic_lb.server_id(&bytes("0767947d29be054a"), Some(8)), Some(0x31_441a));
    }

    #[test]
    fn ids_that_are_not_routable_have_no_server_id() {
        let (_, _, _, id, key) = VECTORS[2];
        let id = bytes(id);
        let mut quic_lb = QuicLb::default();
        assert_eq!(quic_lb.server_id(&id, None), None, "no configuration at all");
        assert!(quic_lb.set(0, configuration(3, 4, key)));
        for len in 0..id.len() {
            assert_eq!(quic_lb.server_id(&id[..len], None), None, "{len}");
        }
        for first in [0x20, 0x47, 0xe7] {
            assert_eq!(quic_lb.server_id(&[&[first][..], &id[1..]].concat(), None), None, "{first:#x}");
        }
        assert_eq!(quic_lb.server_id(&[&[6][..], &id[1..]].concat(), None), None, "it says it is too short");
        assert_eq!(quic_lb.server_id(&id, Some(9)), None, "the header says it is longer than it says");
        assert!(!quic_lb.set(7, configuration(3, 4, None)), "the code point that says there is none");
    }

    #[test]
    fn lengths_are_those_the_draft_allows() {
        for (server_id_len, nonce_len) in [(0, 4), (1, 3), (16, 4), (15, 5)] {
            assert_eq!(
                Configuration::new(server_id_len, nonce_len, None, false).err(),
                Some(LengthError),
                "{server_id_len} {nonce_len}"
            );
        }
        assert_eq!(SERVER_ID_LEN_MAX, 15);
    }

    proptest! {
        #[test]
        fn what_a_server_makes_is_read(
            server_id in proptest::collection::vec(any::<u8>(), 1..=15),
            nonce in proptest::collection::vec(any::<u8>(), 4..=18),
            key in any::<Option<[u8; 16]>>(),
            code_point in 0u8..7,
            appended in proptest::collection::vec(any::<u8>(), 0..5),
        ) {
            prop_assume!(server_id.len() + nonce.len() <= PLAINTEXT_LEN_MAX);
            let mut quic_lb = QuicLb::default();
            let configuration = Configuration::new(server_id.len(), nonce.len(), key, false).unwrap();
            prop_assert!(quic_lb.set(code_point, configuration));
            let id = [encoded(code_point, &server_id, &nonce, key), appended].concat();
            prop_assert_eq!(quic_lb.server_id(&id, Some(id.len())), Some(number(&server_id)));
        }

        #[test]
        fn no_bytes_are_too_strange(id in proptest::collection::vec(any::<u8>(), 0..40), len in any::<usize>()) {
            let mut quic_lb = QuicLb::default();
            for (code_point, key) in [(0, None), (1, Some([7; 16]))] {
                prop_assert!(quic_lb.set(code_point, Configuration::new(9, 10, key, code_point == 0).unwrap()));
            }
            let _ = quic_lb.server_id(&id, Some(len));
        }
    }
}
