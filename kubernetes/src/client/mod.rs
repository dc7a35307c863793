//! The HTTPS client of an API server, sans-IO: a [`Conversation`](perennial_rotation::Conversation) returns commands to
//! connect, write, read or wait, and a runtime carries them out.
//!
//! [`Issuance`] submits a certificate request, waits for the signer, and returns the chain. [`Call`] makes any single
//! HTTP request. Both use a session, which keeps a connection alive; a session uses an exchange, which does TLS; an
//! exchange uses HTTP/1.1. Each layer knows only the next one.

mod backoff;
mod call;
mod connections;

mod cursor;
mod desired;
mod desired_csr;
mod desired_pod_certificate;
mod echo;
mod exchange;
mod exchange_error;
mod head;
mod health;
mod http;
mod issuance;
mod limits;
mod list_watch;
mod naming;
mod response;
mod session;
mod submission_error;
mod tls;
mod tls_error;
mod trust;
mod tunnel;
mod verdict;
mod watch;

pub use call::Call;
pub(crate) use connections::Connections;
pub use desired_csr::DesiredCsr;
pub use desired_pod_certificate::DesiredPodCertificate;
pub use exchange_error::ExchangeError;
pub use health::client_go_healthy;
pub use http::Request;
pub use issuance::Issuance;
pub use limits::Limits;
pub(crate) use list_watch::{Change, ListWatch, Selected};
pub use naming::{csr_name, pod_certificate_name};
pub use response::Response;
