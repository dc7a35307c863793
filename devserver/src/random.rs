//! Random values, all computed from one seed. Equal seeds give equal values; without the seed, the values cannot be
//! predicted.

use std::io;

use derive_more::Debug;
use perennial_pki::{provider, sha256};
use zeroize::Zeroizing;

/// Alphabet of generated name suffixes (`k8s.io/apimachinery/pkg/util/rand`): no vowels, no look-alikes.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Alphabet of bootstrap tokens.
const TOKEN: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A generator of random values: SHA-256 over the seed and a counter.
///
/// Serial numbers, UIDs and name suffixes are drawn from the generator. Never use a seed twice with the same
/// certificate authority: serial numbers would repeat. Use [`Random::from_os`] outside tests.
#[derive(Debug)]
pub struct Random {
    /// `Debug` omits the seed, which reveals every serial number and token.
    #[debug(skip)]
    seed: Zeroizing<[u8; 32]>,
    /// Number of blocks drawn so far: the counter of the next block.
    #[debug(skip)]
    drawn: u64,
}

impl Random {
    /// A generator for tests: equal seeds give equal values.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), drawn: 0 }
    }

    /// A generator seeded by the operating system.
    ///
    /// # Errors
    /// An error if the operating system returns no random bytes.
    pub fn from_os() -> io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        let filled = provider().secure_random.fill(seed.as_mut());
        filled.map_err(|_| io::Error::other("the operating system returned no random bytes; check /dev/urandom"))?;
        Ok(Self { seed, drawn: 0 })
    }

    /// A new bootstrap token, of the form `abcdef.0123456789abcdef`.
    pub fn bootstrap_token(&mut self) -> Zeroizing<String> {
        let id = self.text::<6>(TOKEN);
        let secret = self.text::<16>(TOKEN);
        Zeroizing::new(format!("{id}.{secret}"))
    }

    /// The five characters at the end of a generated name.
    pub(super) fn suffix(&mut self) -> String {
        self.text::<5>(SUFFIX)
    }

    /// A version 4 UUID.
    pub(super) fn uid(&mut self) -> String {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.block()[..16]);
        // Version 4 and variant 10 (RFC 9562 §5.4).
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = format!("{:032x}", u128::from_be_bytes(bytes));
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// A serial number: positive, 127 bits, always 16 octets.
    pub(super) fn serial(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.block()[..16]);
        // Positive (RFC 5280 §4.1.2.2), and no leading zeros, which DER would drop.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        bytes
    }

    fn text<const N: usize>(&mut self, alphabet: &[u8]) -> String {
        let block = self.block();
        // 16 bits for each character: the bias of the remainder is below 0.1 %.
        block
            .chunks_exact(2)
            .take(N)
            .map(|pair| alphabet[usize::from(u16::from_be_bytes([pair[0], pair[1]])) % alphabet.len()] as char)
            .collect()
    }

    fn block(&mut self) -> [u8; 32] {
        let mut input = Zeroizing::new([0; 40]);
        input[..32].copy_from_slice(self.seed.as_ref());
        input[32..].copy_from_slice(&self.drawn.to_be_bytes());
        self.drawn += 1;
        sha256(input.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_draws_same_sequence_without_repeats() {
        let (mut one, mut two) = (Random::from_seed([7; 32]), Random::from_seed([7; 32]));
        let first = (one.uid(), one.serial(), one.suffix());
        assert_eq!(first, (two.uid(), two.serial(), two.suffix()));
        assert_ne!(first, (one.uid(), one.serial(), one.suffix()));
    }

    #[test]
    fn uids_serials_suffixes_and_tokens_are_well_formed() {
        let mut random = Random::from_seed([1; 32]);
        for _ in 0..200 {
            let uid = random.uid();
            assert_eq!((uid.len(), &uid[14..15]), (36, "4"), "{uid}");
            assert!((0x40..0x80).contains(&random.serial()[0]));
            assert!(random.suffix().bytes().all(|byte| SUFFIX.contains(&byte)));
            let token = random.bootstrap_token();
            assert_eq!((token.len(), token.find('.')), (23, Some(6)));
        }
    }

    #[test]
    fn debug_hides_the_seed() {
        assert_eq!(format!("{:?}", Random::from_seed([9; 32])), "Random { .. }");
    }
}
