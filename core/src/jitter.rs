//! Jitter without randomness: a pure function of seed, certificate and attempt.
//!
//! A restart, a clone of the machine and a replay compute the same times. A fleet whose seeds differ is spread as if
//! each member had drawn its times at random.

/// The seed for all jitter of one rotated identity, computed from the names of signer and certificate. Every restart,
/// and every tool that computes a rotation point, gets the same seed.
pub fn seed(signer_name: &str, common_name: &str) -> u64 {
    // FNV-1a; the zero byte keeps ("ab", "c") and ("a", "bc") apart.
    let bytes = signer_name.bytes().chain([0]).chain(common_name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Mixes seed, certificate and attempt into 64 bits, with the finaliser of splitmix64 after each part. The result is
/// the `draw` for [`Backoff::wait`](crate::Backoff::wait).
pub const fn mix(seed: u64, certificate: u64, attempt: u64) -> u64 {
    finalise(finalise(finalise(seed) ^ certificate) ^ attempt)
}

/// The output of splitmix64 (Steele, Lea, Flood 2014) for the state `value`.
const fn finalise(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
