//! The client: a [`Conversation`](perennial_rotation::Conversation) with an API server says connect, write, read or wait, and a driver does that.
//!
//! [`Issuance`] is the one this crate is for: it submits a request, waits, and brings the certificate.
//! [`Call`] is any single request. Below them a session keeps a connection, an exchange is TLS, and
//! HTTP/1.1 is the innermost layer; each knows only the next.

mod ask;
mod backoff;
mod call;
mod csr_error;
mod cursor;
mod exchange;
mod exchange_error;
mod head;
mod health;
mod http;
mod issuance;
mod naming;
mod response;
mod session;
mod tls;
mod tls_error;
mod trust;
mod tunnel;
mod verdict;
mod watch;

pub use ask::Ask;
pub use call::Call;
pub use exchange_error::ExchangeError;
pub use health::client_go_healthy;
pub use http::Request;
pub use issuance::Issuance;
pub use naming::csr_name;
pub use response::Response;
pub use session::Limits;
