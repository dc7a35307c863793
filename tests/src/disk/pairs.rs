//! Self-signed credentials for tests of directories.

use std::sync::Arc;
use std::time::Duration;

use perennial::Validity;
use perennial_pki::{Credential, KeyAlgorithm, KeyPair, self_signed};

use super::NOW;

/// The common name of most credentials in tests of directories.
pub const NODE: &str = "system:node:worker-1";

/// A self-signed pair that is valid at [`NOW`]. A pair with a higher `number` begins and expires later, by an hour for
/// each number.
pub fn pair(common_name: &str, number: u8) -> Credential {
    let from = NOW.before(hours(1000 - u64::from(number)));
    valid(common_name, number, Validity::new(from, NOW.after(hours(1000 + u64::from(number)))).unwrap())
}

/// A self-signed pair that expired `number` hours before [`NOW`].
pub fn expired(common_name: &str, number: u8) -> Credential {
    let until = NOW.before(hours(u64::from(number)));
    valid(common_name, number, Validity::new(NOW.before(hours(2000)), until).unwrap())
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

fn valid(common_name: &str, number: u8, validity: Validity) -> Credential {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let chain = self_signed(common_name, &key, &[number + 1], validity).unwrap();
    Credential::new(chain, Arc::new(key)).unwrap()
}
