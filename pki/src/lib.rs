//! X.509 at the edge of perennial: keys, requests, chains, and the checks of what was issued.
//!
//! The core judges by facts ([`perennial::Certificate`]); this crate reads them from X.509 and writes
//! what a signer wants to see. It does no I/O and knows no clock: bytes in, values out.
//!
//! ```
//! use perennial::Template;
//! use perennial_pki::{KeyAlgorithm, KeyPair, certificate_request, read_request};
//!
//! let key = KeyPair::generate(KeyAlgorithm::EcdsaP256)?;
//! let request = certificate_request(&Template::node("worker-1"), &key)?;
//!
//! // What a signer reads: the self-signature holds, so whoever asks has the key.
//! let facts = read_request(request.pem.as_bytes())?;
//! assert_eq!(facts.common_name, "system:node:worker-1");
//! assert_eq!(facts.public_key_der, key.public_key_der());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An issued chain is parsed ([`Chain`]), checked for being usable at all ([`Expected`]), and joined
//! with its key ([`Credential`]) for TLS and for the disk. Whether it is *good*, that is, whether it
//! carries the names asked for and when it is to be replaced, is the machine's judgement.
//!
//! The other side is here too: an [`Issuer`] turns what [`read_request`] has verified into a chain.
//!
//! # Secrets
//! Private keys appear in no `Debug`, `Display` or error. Their encodings are wiped on drop, and so are the PEM texts
//! handed out. The stack that the crypto provider used to generate, parse or sign with a key is wiped after it.
//!
//! Not wiped, since nothing here can reach them:
//!
//! - what libraries free without wiping: the crypto provider's key objects, buffers of base64 decoders and of TLS, and what
//!   YAML and JSON parsers copy of a kubeconfig that holds a key or a token inline. A global allocator that wipes what is
//!   freed ends this; the command `perennial` has one (`zeroizing-alloc`), and its tests search the process's memory for
//!   replaced keys;
//! - the kernel's pages of every file that was read or written;
//! - what was swapped out, hibernated, or written with a core dump: none of it is locked into memory.
//!
//! Whoever needs more turns swap and core dumps off for the process (systemd: `MemorySwapMax=0`, `LimitCORE=0`), and
//! keeps directory and swap on an encrypted disk. A key lives as long as its certificate: short lives are the better
//! protection.
#![forbid(unsafe_code)]

mod chain;
mod check;
mod credential;
mod der;
mod describe;
mod facts;
mod go;
mod interim;
mod issue;
mod key;
mod names;
mod pem;
mod provider;
mod request;
mod roots;
mod strict;
mod usage;
mod write;
mod x509;

pub use chain::{Chain, ChainError};
pub use check::{BadCertificate, Expected};
pub use credential::{Credential, CredentialError};
pub use describe::describe;
pub use facts::{RequestFacts, read_request};
pub use go::{GoVerdict, go_verdict};
pub use interim::{Interim, interim};
pub use issue::{IssueError, Issuer, Terms, self_signed};
pub use key::{KeyAlgorithm, KeyError, KeyPair};
pub use pem::PemError;
pub use provider::{provider, sha256};
pub use request::{CertificateRequest, RequestError, certificate_request};
pub use roots::Roots;
pub use usage::{KeyUsage, Usage};
