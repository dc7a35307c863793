//! The Kubernetes certificate API, sans-IO.

#![forbid(unsafe_code)]

pub mod ask;
mod backoff;
pub mod call;
pub mod cluster;
pub mod conversation;
pub mod csr_error;
pub mod exchange;
pub mod http;
pub mod issuance;
pub mod kubeconfig;
pub mod naming;
pub mod objects;
mod progress;
pub mod rotation;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
mod tls;
mod watch;
