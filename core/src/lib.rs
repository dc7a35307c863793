//! Certificates that rotate themselves: a pure state machine for the holder of a certificate.
//!
//! [`RotationMachine`] decides *whether and when* to request a new certificate from a signer, and which
//! certificate to serve. It owns no clock, no randomness, no key, no file, no socket and no thread:
//! events go in ([`Event`]), actions for the driver come out ([`Action`]), and one deadline is the time of the next
//! [`Event::Tick`].
//!
//! # The run loop
//!
//! A driver's loop passes an event to the machine, carries out at most four actions, and sleeps until the deadline.
//! This loop is complete except for signer, disk and clock, which it simulates:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::Arc;
//! use std::time::Duration;
//! use perennial::{Action, Certificate, Event, Fingerprint, Instant, Now, RotationMachine, Setup, Template, UnixTime, Validity};
//!
//! let template = Arc::new(Template::node("worker-1"));
//! let mut now = Now { instant: Instant::from_millis(0), unix: UnixTime::from_secs(1_767_225_600) };
//! let seed = perennial::seed("kubernetes.io/kube-apiserver-client-kubelet", template.common_name());
//! let setup = Setup { seed, template: Some(template), ..Setup::default() };
//! let mut machine = RotationMachine::new(setup, now);
//!
//! let (mut inbox, mut issued) = (VecDeque::new(), 0_u8);
//! while issued < 3 {
//!     // The next event, or a Tick at the deadline.
//!     let event = inbox.pop_front().unwrap_or_else(|| {
//!         let sleep = machine.deadline().expect("there is a template and a signer").since(now.instant);
//!         now = Now { instant: now.instant.after(sleep), unix: now.unix.after(sleep) };
//!         Event::Tick
//!     });
//!     for action in machine.handle(event, now) {
//!         match action {
//!             Action::SubmitCsr { id, template, .. } => {
//!                 issued += 1; // a real signer takes its time; this one issues at once
//!                 let validity = Validity::new(now.unix, now.unix.after(Duration::from_secs(86_400))).unwrap();
//!                 let certificate = Certificate::for_template(template, validity, Fingerprint([issued; 32]));
//!                 inbox.push_back(Event::CsrIssued { id, certificate: Arc::new(certificate) });
//!             }
//!             Action::WriteCert { id, certificate, serve } => {
//!                 println!("{}: write {certificate}{}", now.unix, if serve { " and serve it" } else { "" });
//!                 inbox.push_back(Event::CertWritten { id });
//!             }
//!             Action::CancelRequest { .. } => {}
//!             Action::SetTimer(_) => {} // this loop reads deadline() instead
//!         }
//!     }
//! }
//! assert!(now.unix > UnixTime::from_secs(1_767_225_600 + 2 * 60_480), "two lifetimes to 70 % or more");
//! ```
//!
//! The folder `examples/loops` of the repository has loops around mio, epoll, calloop, io_uring and tokio, and a
//! superloop for microcontrollers.
//!
//! # Promises
//!
//! Under any order of events, and whatever the clocks do:
//!
//! - the machine never panics, and [`handle`](RotationMachine::handle) never allocates;
//! - at most one request is in flight, and submissions stay within [`Policy::submissions_within`];
//! - a reply that is late, repeated or has an unknown id changes nothing;
//! - a Tick before the deadline changes nothing, a Tick at the deadline makes progress, and the next
//!   deadline lies later;
//! - if a reply is lost, Ticks alone lead to the next submission or write;
//! - every submission ends with exactly one reply that is not ignored, or with one [`Action::CancelRequest`];
//! - no wait reaches past expiry: each ends early enough for one more attempt, if the budget allows one;
//! - a valid certificate is served until it expires or one at least as good takes its place, and no certificate that is
//!   not valid yet displaces it;
//! - a restart with the same certificate, [`Pending`], [`Renewal`] and [`seed()`] has the same rotation point, the same
//!   budget and the same key to request with.
//!
//! With a healthy signer and lifetimes of at least [`Policy::shortest_lifetime`], the certificate is
//! replaced inside the policy's window and never expires.
//!
//! # Many machines
//!
//! A [`Fleet`] holds any number of machines and has one deadline for all. It limits the requests in flight and in a span of
//! time ([`Limits`]): the certificate that expires first has its turn first, and none waits forever. Members that sleep cost
//! nothing. A [`Planner`] does the same for machines that lie elsewhere. With both, a member's signer is
//! [`Shared`](SignerStatus::Shared).
//!
//! # Two clocks
//!
//! The driver reads a monotonic and a wall clock together ([`Now`]). Rotation points are wall-clock,
//! backoff and timeouts monotonic. Suspend and clock steps are noticed within [`Policy::max_sleep`].
//!
//! A wall clock may be wrong. The machine also uses the API server's clock ([`Event::ServerDated`]) once three readings
//! in a row agree: a certificate is valid if it is valid by either clock, and due once it is due by either. So the
//! server's clock delays nothing and makes nothing expire.
//!
//! # Without `std`
//!
//! The crate is `no_std` and needs an allocator and an [`Arc`], by default `alloc::sync::Arc`. Processors without
//! compare-and-swap, such as Cortex-M0 or RISC-V without the extension A, have no `alloc::sync::Arc`. For them, enable
//! the feature `portable-atomic`: [`Arc`] is then that of the crate `portable-atomic-util`. Enable in the program one
//! of the features by which the crate `portable-atomic` emulates compare-and-swap: `unsafe-assume-single-core` or
//! `critical-section`. On other processors, `portable-atomic` changes nothing.
//!
//! The folder `examples/embedded` of the repository has a loop for boards.
//!
//! # Map
//!
//! | | |
//! |---|---|
//! | `machine.rs`, `checkpoint.rs` | the machine and its complete state |
//! | `machine/absorb.rs` | how each event changes the state |
//! | `machine/settle.rs`, `machine/write.rs`, `machine/deadline.rs` | the actions that follow: requests, writes, the deadline |
//! | `machine/view.rs` | the machine as observers see it |
//! | `machine/alike.rs` | a hash by which a model checker compares machines (feature `hash-at`) |
//! | `event.rs`, `action.rs`, `outcome.rs` | events in, actions out, decisions for observers |
//! | `judge.rs`, `server_clock.rs` | grades of certificates, and the clocks to judge by |
//! | `certificate.rs`, `template.rs`, `names.rs`, `time.rs` | the facts of a certificate, the names to request, the two clocks |
//! | `template/check.rs` | the rules for names that a certificate can carry |
//! | `renewal.rs` | the signer's hint when to rotate a certificate |
//! | `pacing.rs`, `policy.rs`, `jitter.rs` | when the next request may be submitted |
//! | `fleet.rs`, `fleet/planner.rs`, `fleet/heap.rs` | many machines: deadlines, the queue for requests, limits |
//! | `pending_key.rs` | whether a retry uses the same key |
//! | `store.rs` | the credential directory as plans: which file operations, in which order |
//! | `state.rs`, `trace.rs`, `escaped.rs` | states, events and actions as text; escaping of text from outside |
//! | `sync.rs` | `Arc` for every target |
//! | `setup.rs` | the initial state, and the record of an earlier run |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod action;
mod certificate;
mod checkpoint;
mod escaped;
mod event;
mod fleet;
mod jitter;
mod judge;
mod machine;
mod names;
mod outcome;
mod pacing;
mod pending_key;
mod policy;
mod renewal;
mod server_clock;
mod setup;
mod state;
pub mod store;
mod sync;
mod template;
mod time;
mod trace;

pub use action::{Action, Actions, Key};
pub use certificate::{Certificate, Fingerprint, Validity, ValidityError};
pub use checkpoint::{Checkpoint, Unwritten};
pub use escaped::{Escaped, printable};
pub use event::{Event, Failure, RequestId, SignerStatus};
pub use fleet::{Fleet, Limits, MemberKey, Planner, Schedule, Turn};
pub use jitter::{mix, seed};
pub use judge::rotation_point;
pub use machine::RotationMachine;
pub use outcome::{Outcome, Outcomes, Slot};
pub use pacing::RequestPacing;
pub use pending_key::PendingKey;
pub use policy::{Backoff, Budget, Policy, PolicyError, Window};
pub use renewal::{HintFault, Renewal, RenewalHint};
pub use server_clock::ServerClock;
pub use setup::{Pending, Refusal, Setup};
pub use state::{Reason, State};
pub use sync::Arc;
pub use template::{Template, TemplateError, is_dns_name, same_dns_name};
pub use time::{Instant, Now, TimeError, UnixTime};
pub use trace::TraceLine;
