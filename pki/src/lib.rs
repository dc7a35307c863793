//! X.509 for perennial: keys, CSRs, certificate chains, and the checks of issued certificates.
//!
//! The machine in the core decides by the facts of a certificate ([`perennial::Certificate`]). This crate reads these
//! facts from X.509, and writes requests and certificates. It does no I/O and reads no clock: bytes in, values out.
//!
//! ```
//! use perennial::Template;
//! use perennial_pki::{KeyAlgorithm, KeyPair, certificate_request, read_request};
//!
//! let key = KeyPair::generate(KeyAlgorithm::EcdsaP256)?;
//! let request = certificate_request(&Template::node("worker-1"), &key)?;
//!
//! // A signer reads the request; the self-signature proves that the requester has the key.
//! let facts = read_request(request.pem.as_bytes())?;
//! assert_eq!(facts.common_name, "system:node:worker-1");
//! assert_eq!(facts.public_key_der, key.public_key_der());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Chain`] parses an issued chain, [`Expected`] checks that TLS can use the chain, and [`Credential`] joins chain and
//! key, for TLS and for the disk. The machine in the core decides whether the certificate has the names of its
//! template, and when to replace the certificate.
//!
//! A private key may also stay elsewhere, for example in an HSM: the program implements [`ExternalKey`], which signs,
//! and [`KeyPair::external`] makes a key pair of it.
//!
//! [`Issuer`] is for signers: it issues a chain for a request that [`read_request`] has verified.
//!
//! # Secrets
//! `Debug`, `Display` and errors never contain a private key. The encodings of a key are wiped on drop, and so are the
//! PEM texts that this crate returns. The stack that the crypto provider used to generate, parse or sign with a key is
//! wiped afterwards.
//!
//! Copies that this crate cannot reach, and does not wipe:
//!
//! - memory that libraries free without wiping: the crypto provider's key objects, buffers of base64 decoders and of
//!   TLS, and the copies that YAML and JSON parsers make of a kubeconfig with an inline key or token. A global
//!   allocator that wipes freed memory removes them; the command `perennial` has one (`zeroizing-alloc`), and its tests
//!   search the process's memory for replaced keys;
//! - the kernel's pages of every file that was read or written;
//! - memory that was swapped out, hibernated, or written with a core dump: no key is locked into memory.
//!
//! To protect these copies, too, turn swap and core dumps off for the process (systemd: `MemorySwapMax=0`,
//! `LimitCORE=0`), and keep the files and the swap space on an encrypted disk. Short lifetimes protect best, since a
//! stolen key is of no use once its certificate has expired.
#![forbid(unsafe_code)]

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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

/// The version of rustls in the interfaces of this crate.
pub use rustls;
/// The type of the texts with keys that this crate returns: wipes a text on drop.
pub use zeroize::Zeroizing;

pub use chain::{Chain, ChainError};
pub use check::{BadCertificate, Expected};
pub use credential::{Credential, CredentialError};
pub use describe::describe;
pub use facts::{RequestFacts, read_request, read_request_der};
pub use go::{GoVerdict, go_verdict};
pub use interim::{Interim, interim};
pub use issue::{IssueError, Issuer, Terms, self_signed};
pub use key::{ExternalKey, ExternalKeyError, KeyAlgorithm, KeyEncoding, KeyError, KeyPair, ecdsa_signature};
pub use names::AlternativeNames;
pub use pem::PemError;
pub use provider::{provider, sha256};
pub use request::{CertificateRequest, RequestError, certificate_request};
pub use roots::Roots;
pub use usage::{KeyUsage, Usage};
