//! The proof harness of perennial: one machine in virtual time, hostile lives for it to live, and the laws it must keep.
//!
//! | | |
//! |---|---|
//! | [`mint`] | certificates and templates to order |
//! | [`world`] | virtual time: one machine, a scripted signer, a scripted disk, both clocks |
//! | [`fleet`] | many worlds that share the time |
//! | [`trace`] | what happened in a world, with a snapshot after every step |
//! | [`recording`] | the same of a rotation with a server and a driver, written by looking on |
//! | [`script`] | a hostile life, decoded from bytes: property tests and fuzzing share it |
//! | [`subject`] | what is put to the laws: the machine, or one that breaks a rule |
//! | [`laws`] | what the machine promises, each promise a function: of a step, of a state, of a trace |
//! | [`field`] | what goes wrong around a holder, and what it costs: for perennial and client-go alike |
//! | [`oracle`] | client-go's certificate manager |
//! | [`check`] | every state of small worlds, put to the laws |
//! | [`model`] | the rules of rotation, said a second time: slowly, from the whole history |
//! | [`disk`] | a directory that loses power, and everything that may be left of it |
//! | [`simulation`] | a rotation and the embedded API server, byte for byte, in virtual time; crashes |
//! | [`loopback`] | the embedded API server and nodes over real sockets, on any runtime |
//! | [`fuzz`] | the bodies of the fuzz targets |
//! | [`openssl`] | keys and certificates of kinds that only the `openssl` command makes |
//! | [`malicious`] | certificates that no peer should have to read |

#![forbid(unsafe_code)]

/// Compiles and runs the examples of the README. The packages that are published do not contain the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub mod check;
pub mod disk;
pub mod field;
pub mod fleet;
#[cfg(feature = "edge")]
pub mod fuzz;
pub mod laws;
#[cfg(feature = "smol")]
pub mod loopback;
#[cfg(feature = "edge")]
pub mod malicious;
pub mod mint;
pub mod model;
pub mod openssl;
pub mod oracle;
#[cfg(feature = "edge")]
pub mod recording;
pub mod script;
#[cfg(feature = "edge")]
pub mod simulation;
pub mod subject;
pub mod trace;
pub mod world;
