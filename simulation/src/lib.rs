//! Simulates nodes that rotate their certificates, in virtual time.
//!
//! | | |
//! |---|---|
//! | [`Oracle`] | a port of client-go's certificate manager |
//! | [`Surroundings`] | what a program that rotates a certificate sees: clocks, template and API server |

#![forbid(unsafe_code)]

mod client_go;
mod surroundings;

pub use client_go::Oracle;
pub use surroundings::{Object, Seen, Submitted, Surroundings};
