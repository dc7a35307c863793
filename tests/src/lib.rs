//! The proof harness of perennial: one machine in virtual time, hostile lives for it to live, and the laws it must keep.
//!
//! | | |
//! |---|---|
//! | [`mint`] | certificates and templates to order |
//! | [`simulation`] | virtual time: a machine and a script or a cluster, or a rotation and the embedded API server, byte for byte |
//! | [`trace`] | what happened in a world, with a snapshot after every step |
//! | [`recording`] | the same of a rotation with a server and a driver, written by looking on |
//! | [`script`] | a hostile life, decoded from bytes: property tests and fuzzing share it |
//! | [`subject`] | what is put to the laws: the machine, or one that breaks a rule |
//! | [`laws`] | what the machine promises, each promise a function: of a step, of a state, of a trace |
//! | [`oracle`] | client-go's certificate manager |
//! | [`check`] | every state of small worlds, put to the laws |
//! | [`model`] | the rules of rotation, said a second time: slowly, from the whole history |
//! | [`disk`] | a directory that loses power, and everything that may be left of it |
//! | [`command`] | processes with their output in files, and the files that they leave |
//! | [`tls`] | TLS clients of servers under test |
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
#[cfg(feature = "commands")]
pub mod command;
pub mod disk;
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
pub mod simulation;
pub mod subject;
#[cfg(feature = "edge")]
pub mod tls;
pub mod trace;
