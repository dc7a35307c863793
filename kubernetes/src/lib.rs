//! The Kubernetes certificate API, sans-IO: no socket, no clock, no file in here.
//!
//! - [`CsrSigner`]: the signer of a rotation that is asked with CertificateSigningRequest objects.
//! - [`client`]: one request for a certificate, from `POST` to the chain.
//! - [`cluster`], [`kubeconfig`]: which API server, and as whom; [`kubelet_config`]: which certificates.
//! - [`addresses`]: what a node's serving certificate is for.
//! - [`text`]: files as editors and shells leave them.

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
