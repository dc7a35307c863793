//! An embedded API server for tests: a small part of a cluster's, with its approver, its signers and its cleaner.
//!
//! [`TestCluster`] is what another program's tests start with. A node has its certificate in four lines:
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
//! # assert_eq!(credential.chain().certificate().common_name, "system:node:worker-1");
//! # Ok(()) }
//! ```
//!
//! As a dev-dependency the crate needs no default features: they are those of its command.
//!
//! | to test | use |
//! |---|---|
//! | a client that is not perennial's | [`TestCluster::url`], [`TestCluster::ca_pem`], [`TestCluster::token`], the kubeconfigs |
//! | a signer name of your own, such as `example.com/mesh` | [`TestCluster::signer`] |
//! | short lives, manual approval, another CA | [`ClusterSetup`] and its [`Options`] |
//! | an approval that comes late, or a denial | [`TestCluster::requests`] and [`TestCluster::decide`] |
//! | a server that misbehaves | [`TestCluster::set_faults`] with a plan of [`faults`] |
//! | a CA that is replaced | [`TestCluster::rotate_authority`] |
//! | Node objects, users and tokens of your own | [`ApiServer::with_api`] of [`TestCluster::server`] |
//!
//! For development, demonstrations and tests, and nothing else: objects live in memory, the certificate authority's key
//! too, there is no audit and no encryption at rest. What it does serve it serves as a cluster does, to `kubectl` and
//! to kubelets; what it does not serve it refuses.
//!
//! # Without sockets
//!
//! [`TestCluster`] and [`ApiServer`] use sockets and threads, everything else is sans-IO, for tests in virtual time:
//! [`Session`] turns a client's bytes into requests, and [`Api`] turns an [`ApiRequest`] into an [`Answer`]: a
//! [`Response`], a [`Listing`], or a [`Watcher`] whose [`Next`] event the API gives. [`Tls`] has the clock of its test,
//! [`Random`] its seed, and a [`Break`] says what to do to the client's socket, if there is one. [`ApiServer`] is a
//! driver of these.
//!
//! # Limits
//!
//! Costs of clients are bounded: objects and history in number and bytes ([`Options`]), a request's head (16 KiB,
//! else 431) and body (128 KiB, else 413; a body without a known credential is not read), open watches (else 429), an
//! unread answer (about 16 KiB and one object), a TLS handshake (10 s), silence (120 s), reading a list (60 s). A
//! thousand clients that wait take 16 KiB each; `cargo bench -p perennial-tests` measures it.
//!
//! # Deviations from a cluster
//!
//! Certificates shorter than ten minutes can be asked for ([`Options::allow_short`]), and the validity of short ones is
//! backdated by a twentieth of their lifetime, not by five minutes. Server-side apply, directives in strategic merge
//! patches, finalizers and owners are not there. A watch from a version that the server has not reached is answered
//! with 410, because after a restart it never comes. One log is both watch cache and etcd: a list as of an exact
//! version reaches no further back than a watch.

#![forbid(unsafe_code)]

mod api;
mod authority;
mod cluster;
mod random;
mod server;
mod session;
mod tls;

pub use api::controllers::{Decision, DecisionError};
pub use api::list::Listing;
pub use api::message::{Answer, ApiRequest, Method, Response};
pub use api::serving::ServingApproval;
pub use api::user::User;
pub use api::watch::{Next, Watcher};
pub use api::{Api, Approval, Options, faults};
pub use authority::{Authority, AuthorityError};
pub use cluster::{ClusterError, ClusterSetup, TestCluster};
pub use random::{NoRandomness, Random};
pub use server::ApiServer;
pub use session::{Break, Session};
pub use tls::{Tls, TlsError};
