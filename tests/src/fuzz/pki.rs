//! Keys and certificates that are the same in every run: the keys are constants, and Ed25519 signatures are not random.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Template, UnixTime, Validity};
use perennial_pki::{Chain, Credential, Issuer, KeyPair, KeyUsage, Terms, Usage, certificate_request, read_request};
use rustls::pki_types;
use rustls::time_provider::TimeProvider;

use crate::mint::EPOCH;

const AUTHORITY: &str = "AEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";
const OURS: &str = "AICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC";
const ANOTHER: &str = "AMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD";

pub(super) const HOST: &str = "api.example";

/// A certificate authority, our key and another party's key.
pub(super) struct Pki {
    pub(super) issuer: Issuer,
    pub(super) ours: Arc<KeyPair>,
    pub(super) another: Arc<KeyPair>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let authority = key(AUTHORITY);
        let year = Duration::from_secs(365 * 86_400);
        let validity = Validity::new(EPOCH.before(year), EPOCH.after(year)).expect("in order");
        let chain = perennial_pki::self_signed("the authority", &authority, &[1], validity).expect("a certificate");
        let credential = Credential::new(chain, Arc::new(authority)).expect("its key");
        Self {
            issuer: Issuer::new(credential).expect("an authority"),
            ours: Arc::new(key(OURS)),
            another: Arc::new(key(ANOTHER)),
        }
    }

    /// A certificate for `template` and `key`, valid for a day.
    pub(super) fn issue(&self, template: &Template, key: &KeyPair, usage: Usage) -> Chain {
        let request = certificate_request(template, key).expect("a request");
        let terms = Terms {
            serial: &[2],
            validity: Validity::new(EPOCH.before(DAY / 24), EPOCH.after(DAY)).expect("in order"),
            key_usages: &[KeyUsage::DigitalSignature],
            extended_key_usages: &[usage],
        };
        self.issuer.issue(&read_request(request.pem.as_bytes()).expect("our request"), &terms).expect("a certificate")
    }

    pub(super) fn credential(&self, template: &Template, usage: Usage) -> Credential {
        Credential::new(self.issue(template, &self.ours, usage), Arc::clone(&self.ours)).expect("its key")
    }
}

pub(super) const DAY: Duration = Duration::from_secs(86_400);

fn key(secret: &str) -> KeyPair {
    let pem = format!("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI{secret}\n-----END PRIVATE KEY-----\n");
    KeyPair::from_pem(pem).expect("a key")
}

/// A TLS clock that stands still at [`EPOCH`].
#[derive(Debug)]
pub(super) struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<pki_types::UnixTime> {
        Some(tls_time(EPOCH))
    }
}

fn tls_time(at: UnixTime) -> pki_types::UnixTime {
    pki_types::UnixTime::since_unix_epoch(at.since(UnixTime::from_secs(0)))
}
