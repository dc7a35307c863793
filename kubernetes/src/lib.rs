//! The Kubernetes certificate API, sans-IO: this crate opens no socket, reads no clock and no file.
//!
//! - [`CsrSigner`]: the signer of a rotation that submits CertificateSigningRequest objects to an API server.
//! - [`client`]: one request for a certificate, from `POST` to the chain.
//! - [`cluster`], [`kubeconfig`]: the API server and the identity to use with it.
//! - [`kubelet_config`]: the certificates that kubelet's configuration file asks for.
//! - [`addresses`]: the names and IP addresses for a node's serving certificate.
//! - [`text`]: decoding files as editors and shells write them.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod client;
pub mod cluster;
pub mod kubeconfig;
pub mod kubelet_config;
pub mod objects;
mod signer;
pub mod text;

pub use signer::CsrSigner;
