//! The Kubernetes certificate API, sans-IO: this crate opens no socket and reads no clock, and only [`pods`] reads
//! and writes files.
//!
//! - [`CsrSigner`]: the signer of a rotation that submits CertificateSigningRequest objects to an API server.
//! - [`PodCertificateSigner`]: the signer of a rotation that submits PodCertificateRequest objects, for the pods of a
//!   node.
//! - [`TrustBundles`]: the CAs that a cluster publishes as ClusterTrustBundles, kept current by a [`BundleWatch`].
//! - [`pods`]: the certificates in the volumes of a node's pods, for node agents. Reads and writes files.
//! - [`client`]: one request for a certificate, from the `POST` to the issued chain.
//! - [`cluster`]: the API server, the CAs that verify it, and the proxy in between.
//! - [`kubeconfig`]: reads the API server and the identity from a kubeconfig file, and writes kubeconfig files.
//! - [`objects`]: CertificateSigningRequest, PodCertificateRequest and other API objects, and the names of kubelet's
//!   signers.
//! - [`kubelet_config`]: the fields of kubelet's configuration file that concern certificates.
//! - [`addresses`]: the DNS names and IP addresses of a node's serving certificate.
//! - [`text`]: decodes text files in the encodings that editors and shells write.

#![forbid(unsafe_code)]

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod addresses;
pub mod client;
pub mod cluster;
pub mod kubeconfig;
pub mod kubelet_config;
mod names;
pub mod objects;
mod pod_signer;
pub mod pods;
mod signer;
pub mod text;
mod trust_bundles;

pub use pod_signer::{PodCertificateSigner, PodIdentity};
pub use signer::CsrSigner;
pub use trust_bundles::{BundleSelection, BundleState, BundleWatch, TrustBundles};
