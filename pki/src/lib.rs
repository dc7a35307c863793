//! X.509 at the edge of perennial: keys and requests going out, chains coming in, and the refusal of
//! what nobody could use. What passes is handed to the core as facts.

#![forbid(unsafe_code)]

mod chain;
mod credential;
mod issued;
mod key;
mod names;
mod pem;
mod provider;
mod request;

pub use chain::{Chain, ChainError, Roots};
pub use credential::{Credential, CredentialError};
pub use issued::{BadCertificate, Expected, Usage};
pub use key::{KeyAlgorithm, KeyError, KeyPair};
pub use names::Names;
pub use provider::provider;
pub use request::{CertificateRequest, RequestError, RequestFacts, certificate_request, read_request};
