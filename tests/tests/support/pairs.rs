//! Credentials to keep: each valid longer than the one before.

use std::sync::Arc;
use std::time::Duration;

use perennial::Validity;
use perennial_pki::{Credential, KeyAlgorithm, KeyPair, self_signed};

use super::volume::NOW;

pub(crate) const NODE: &str = "system:node:worker-1";

pub(crate) fn pair(common_name: &str, number: u8) -> Credential {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let from = NOW.before(hours(1000 - u64::from(number)));
    let validity = Validity::new(from, NOW.after(hours(1000 + u64::from(number)))).unwrap();
    let chain = self_signed(common_name, &key, &[number + 1], validity).unwrap();
    Credential::new(chain, Arc::new(key)).unwrap()
}
