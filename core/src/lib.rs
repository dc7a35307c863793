//! Certificates that renew themselves: a certificate holder's side of rotation as a pure state machine.
//!
//! [`RotationMachine`] decides *whether and when* to ask a signer for a new certificate, and which
//! certificate to serve. It owns no clock, no randomness, no key, no file, no socket and no thread:
//! facts go in ([`Event`]), duties come out ([`Action`]), and one deadline says when to look again.
//!
//! # The run loop
//!
//! Any loop is: an event in, four duties out, sleep until the deadline. This one is complete but for
//! the signer, the disk and the clock, which a script plays:
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
//!     // An event, or else the deadline.
//!     let event = inbox.pop_front().unwrap_or_else(|| {
//!         let sleep = machine.deadline().expect("there is a template and a signer").since(now.instant);
//!         now = Now { instant: now.instant.after(sleep), unix: now.unix.after(sleep) };
//!         Event::Tick
//!     });
//!     for action in machine.handle(event, now) {
//!         match action {
//!             Action::SubmitCsr { id, template, .. } => {
//!                 issued += 1; // a signer would take its time; this one has the answer ready
//!                 let certificate = Arc::new(Certificate {
//!                     validity: Validity::new(now.unix, now.unix.after(Duration::from_secs(86_400))).unwrap(),
//!                     fingerprint: Fingerprint([issued; 32]),
//!                     common_name: template.common_name().into(),
//!                     organizations: template.organizations().into(),
//!                     dns_names: vec![],
//!                     ip_addresses: vec![],
//!                     provisional: false,
//!                     chain: Arc::from([]),
//!                 });
//!                 inbox.push_back(Event::CsrIssued { id, certificate });
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
//! # What it promises
//!
//! Under any order of events, and whatever the clocks do:
//!
//! - it never panics, and `handle` never allocates;
//! - at most one request is in flight, and submissions stay within [`Policy::submissions_within`];
//! - a late, repeated or foreign reply changes nothing;
//! - a Tick before the deadline changes nothing, a Tick at the deadline makes progress, and the next
//!   deadline lies later;
//! - lose any reply, and Ticks alone get it to ask, or write, again;
//! - every submission ends in one accepted reply or one [`Action::CancelRequest`];
//! - no wait reaches past expiry: each leaves at least one more attempt, if the budget has one to give;
//! - a valid certificate is served until it expires or one at least as good takes its place, and none that is not valid
//!   yet displaces it;
//! - a restart with the same certificate, [`Pending`] and [`seed()`] has the same rotation point, the
//!   same budget and the same key to request with.
//!
//! With a healthy signer and lifetimes of at least [`Policy::shortest_lifetime`], the certificate is
//! replaced inside the policy's window and never expires.
//!
//! # Two clocks
//!
//! The driver reads a monotonic and a wall clock together ([`Now`]). Rotation points are wall-clock,
//! backoff and timeouts monotonic. Suspend and clock steps are noticed within [`Policy::max_sleep`].
//!
//! A wall clock may be wrong. What the API server's clock shows ([`Event::ServerDated`]) is believed once three readings in
//! a row agree: a certificate is valid if it is by either clock, and due once it is by either. So the server's clock delays
//! nothing and makes nothing expire.
//!
//! # Map
//!
//! | | |
//! |---|---|
//! | `machine.rs`, `checkpoint.rs` | the machine: facts in, one question, duties out; and all that it is |
//! | `machine/absorb.rs` | what each event means |
//! | `machine/settle.rs`, `machine/write.rs`, `machine/deadline.rs` | what follows: requests, writes, when to look again |
//! | `event.rs`, `action.rs`, `outcome.rs` | facts, duties, and what was decided |
//! | `judge.rs`, `server_clock.rs` | how good a certificate is, by which clocks |
//! | `pacing.rs`, `policy.rs`, `jitter.rs` | when the next attempt may be made |
//! | `pending_key.rs` | with which key |
//! | `store.rs` | the credential directory as plans: which file operations, in which order |
//! | `state.rs`, `trace.rs` | what it is doing, for people |
//! | `setup.rs` | what it starts from, and what an earlier run left |

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod action;
mod certificate;
mod checkpoint;
mod escaped;
mod event;
mod jitter;
mod judge;
mod machine;
mod outcome;
mod pacing;
mod pending_key;
mod policy;
mod server_clock;
mod setup;
mod state;
pub mod store;
mod template;
mod time;
mod trace;

pub use action::{Action, Actions, Key};
pub use certificate::{Certificate, Fingerprint, Validity, ValidityError};
pub use checkpoint::{Checkpoint, Unwritten};
pub use escaped::{Escaped, printable};
pub use event::{Event, Failure, RequestId, SignerStatus};
pub use jitter::seed;
pub use judge::rotation_point;
pub use machine::RotationMachine;
pub use outcome::{Outcome, Outcomes, Slot};
pub use pacing::RequestPacing;
pub use pending_key::PendingKey;
pub use policy::{Backoff, Budget, Policy, PolicyError, Window};
pub use server_clock::ServerClock;
pub use setup::{Pending, Refusal, Setup};
pub use state::{Reason, State};
pub use template::{Template, same_dns_name};
pub use time::{Instant, Now, UnixTime};
pub use trace::TraceLine;
