//! The client against a scripted API server, in virtual time.

mod answers;
mod bytes;
mod errors;
mod flow;
mod kept;
mod persistence;
mod pod_certificates;
mod pod_signer;
mod rotation_clock;
mod rotation_words;
mod support;
mod tls;
mod trust_bundles;
mod watches;
