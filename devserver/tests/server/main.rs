//! The server in memory: requests and answers, bytes of TLS and HTTP, in virtual time.

mod approval;
mod bundles;
mod bytes;
mod cleaning;
mod create;
mod credentials;
mod faults;
mod list;
mod load;
mod options;
mod patch;
mod pod_requests;
mod pod_signing;
mod pods;
mod rights;
mod rotation;
mod secrets;
mod session;
mod signing;
mod smuggling;
mod support;
mod updates;
mod watch;
