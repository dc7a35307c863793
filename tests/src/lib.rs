//! The test library of perennial: virtual time, hostile lives of a machine (random events, faults and restarts), and
//! the laws that the machine must keep.
//!
//! | | |
//! |---|---|
//! | [`mint`] | makes certificates and templates |
//! | [`simulation`] | virtual time: a machine with a script or a cluster, or a rotation with the embedded API server |
//! | [`trace`] | every event and action of a run, with a copy of the machine after every step |
//! | [`recording`] | the trace of a rotation, recorded from its news, whichever driver runs the rotation |
//! | [`script`] | a hostile life of a machine, decoded from bytes: property tests and fuzzing share it |
//! | [`fleet`] | a hostile life of a fleet, and the laws of fleets |
//! | [`subject`] | the machine that the laws check: as shipped, or one that breaks a rule |
//! | [`laws`] | the promises of the machine as functions of a step, a state or a trace |
//! | [`check`] | a model checker: visits every state of a machine in small worlds, and checks the laws in each |
//! | [`model`] | a second implementation of the rules of rotation: slow, computed from the whole history |
//! | [`disk`] | a virtual directory, and every state in which a loss of power may leave the directory |
//! | [`command`] | runs commands as processes, and reads their output and the files that they leave |
//! | [`address`] | loopback addresses for servers that start late or again |
//! | [`tls`] | TLS clients and servers |
//! | [`loopback`] | the embedded API server and nodes over real sockets, on any runtime |
//! | [`replacement`] | imitations of programs that replace files, step by step |
//! | [`fuzz`] | the bodies of the fuzz targets |
//! | [`openssl`] | keys and certificates of kinds that only the `openssl` command makes |
//! | [`malicious`] | malformed and hostile certificates |
//! | [`mod@bench`] | sizes and times of benches |
//! | [`sources`] | the source files of the workspace, for tests that check texts |

#![forbid(unsafe_code)]

/// Compiles and runs the examples of the README as doc tests. The struct is in this package, which is not published,
/// since published packages do not contain the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub mod address;
pub mod bench;
pub mod check;
#[cfg(feature = "commands")]
pub mod command;
pub mod disk;
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
#[cfg(feature = "edge")]
pub mod recording;
#[cfg(feature = "edge")]
pub mod replacement;
pub mod script;
pub mod simulation;
pub mod sources;
pub mod subject;
#[cfg(feature = "edge")]
pub mod tls;
pub mod trace;
