//! Simulates fleets of nodes that rotate their certificates, in virtual time.
//!
//! A [`Scenario`] describes the nodes, their cluster and the outages. [`simulate`] runs it and returns a [`Report`]: the
//! load on the API server in each second, the certificates that expired, the request objects in etcd. Each node runs a
//! [`RotationMachine`](perennial::RotationMachine) of the crate `perennial`, or an [`Oracle`], a port of client-go's
//! certificate manager.
//!
//! ```
//! use perennial_simulation::{Outage, OutageKind, Scenario, simulate};
//! use std::time::Duration;
//!
//! const HOUR: Duration = Duration::from_secs(3600);
//! let mut scenario = Scenario::new(100, 24 * HOUR, 7 * 24 * HOUR);
//! scenario.outages.push(Outage { from: 48 * HOUR, lasts: 2 * HOUR, kind: OutageKind::Refused });
//! let report = simulate(&scenario, |_done| ());
//! assert_eq!(report.totals.expiries, 0, "an outage of two hours is shorter than a tenth of the lifetime");
//! ```
//!
//! | | |
//! |---|---|
//! | `scenario.rs` | the description of a fleet, its cluster and its faults |
//! | `run.rs` | runs the nodes, one after another |
//! | `cluster.rs` | API server, approver, signer and cleaner, as one node meets them |
//! | `report.rs`, `series.rs` | the result: totals, and numbers over time |
//! | `client_go.rs`, `surroundings.rs` | the port of client-go's manager, and the trait by which it sees its surroundings |

#![forbid(unsafe_code)]

mod client_go;
mod cluster;
mod report;
mod run;
mod scenario;
mod series;
mod surroundings;

pub use client_go::Oracle;
pub use report::{AGES, Life, Report, Totals};
pub use run::{simulate, simulate_with_lives};
pub use scenario::{BEGIN, Outage, OutageKind, Program, Scenario, Start};
pub use series::{PerMinute, PerSecond};
pub use surroundings::{Object, Seen, Submitted, Surroundings};
