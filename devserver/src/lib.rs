//! An embedded API server for tests: the certificate API of a cluster, with approver, signers and cleaner.
//!
//! The server serves certificate signing requests, pod certificate requests, ClusterTrustBundles, pods, service accounts
//! and Node objects.
//!
//! [`TestCluster`] starts a server in a test. A node gets its certificate in four lines:
//!
//! ```
//! # use std::time::Duration;
//! # use perennial::Template;
//! # use perennial_dev::TestCluster;
//! # use perennial_rotation::Rotator;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = TestCluster::start()?;
//! let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
//! let node = perennial_std::start(rotator)?;
//! let credential = node.ready().within(Duration::from_secs(30))?;
//! # assert_eq!(credential.chain().certificate().common_name(), "system:node:worker-1");
//! # Ok(()) }
//! ```
//!
//! As a dev-dependency, set `default-features = false`: the default features are for the command `perennial-dev` only.
//!
//! | to test | use |
//! |---|---|
//! | another client, by URL, CA and token | [`TestCluster::url`], [`TestCluster::ca_pem`], [`TestCluster::token`] |
//! | another client, by kubeconfig | [`TestCluster::bootstrap_kubeconfig`], [`TestCluster::admin_kubeconfig`] |
//! | a signer name of your own, such as `example.com/mesh` | [`TestCluster::signer`] |
//! | short lifetimes, manual approval, another CA | [`ClusterSetup`] and its [`Options`] |
//! | an approval that comes late, or a denial | [`TestCluster::requests`] and [`TestCluster::decide`] |
//! | a server that misbehaves | [`TestCluster::set_faults`] with a plan of [`faults`] |
//! | a CA that is replaced | [`TestCluster::rotate_authority`] |
//! | certificates of pods: lifetimes, hints, names, denials | [`TestCluster::set_pod_signer`] with a [`PodSigner`] |
//! | the CA of a signer of pod certificates that is replaced | [`TestCluster::rotate_pod_signer`] |
//! | CAs of a signer that pods read from a ClusterTrustBundle | [`TestCluster::put_trust_bundle`] |
//! | pods, with their service accounts and Node objects | [`TestCluster::put_pod`] |
//! | Node objects with addresses, users and tokens of your own | [`ApiServer::with_api`] of [`TestCluster::server`] |
//!
//! The server is for development, demonstrations and tests only: objects and the CA's key live in memory, and there is
//! no audit log. To `kubectl` and kubelets the server behaves as a cluster does, and it refuses requests that it does
//! not support.
//!
//! # Without sockets
//!
//! [`TestCluster`] and [`ApiServer`] use sockets and threads. Everything else is sans-IO, for tests in virtual time:
//! [`Session`] turns a client's bytes into requests, and [`Api`] turns an [`ApiRequest`] into an [`Answer`]: a
//! [`Response`], a [`Listing`], or a [`Watcher`], whose events [`Api::next_event`] returns as [`Next`]. A test sets the
//! clock of [`Tls`] and the seed of [`Random`]. A [`Break`] is a fault for the owner of the client's socket to carry
//! out. [`ApiServer`] drives all of these with sockets.
//!
//! # Limits
//!
//! The server bounds the cost of its clients:
//!
//! | what | limit |
//! |---|---|
//! | stored objects, and the history of their changes | number and bytes in [`Options`] |
//! | open watches | number in [`Options`], else 429 |
//! | head of a request | 16 KiB, else 431 |
//! | body of a request | 128 KiB, else 413; a body without a known credential is not read |
//! | unread bytes of an answer | about 16 KiB and one object |
//! | TLS handshake | 10 s |
//! | time without a complete request or a sent byte | 120 s; longer for a watch without events |
//! | reading of a list | 60 s |
//!
//! Each of a thousand waiting clients takes 16 KiB, as `cargo bench -p perennial-tests --bench load` measures.
//!
//! # Deviations from a cluster
//!
//! Lifetimes shorter than ten minutes can be requested ([`Options::allow_short`]), and a certificate with a lifetime
//! shorter than 100 minutes is backdated by a twentieth of the lifetime, not by five minutes. Server-side apply,
//! directives in strategic merge patches and finalizers are not supported, nor are owner references, except those from pod
//! certificate requests to pods. Every namespace exists. Nothing
//! schedules or runs pods, and a pod may name a service account or node that does not exist. A watch from a version
//! that the server has not reached gets 410, because after a restart the server may never reach that version. One log
//! serves as both watch cache and etcd: a list at an exact version reaches no further back than a watch.

#![forbid(unsafe_code)]

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod api;
mod authority;
mod cluster;
mod random;
mod server;
mod session;
mod tls;

pub use api::controllers::{Decision, DecisionError};
pub use api::direct::ObjectError;
pub use api::list::Listing;
pub use api::message::{Answer, ApiRequest, Response};
pub use api::pod_signer::{PodDecision, PodSigner, RefreshHint};
pub use api::serving::ServingApproval;
pub use api::user::User;
pub use api::watch::{Next, Watcher};
pub use api::{Api, Approval, Options, faults};
pub use authority::{Authority, AuthorityError};
pub use cluster::{ClusterError, ClusterSetup, TestCluster};
pub use http::Method;
pub use random::Random;
pub use server::ApiServer;
pub use session::{Break, Session};
pub use tls::{Tls, TlsError};
