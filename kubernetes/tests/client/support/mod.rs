//! The scripted API server and the CA of the client tests.

mod ca;
mod node;
mod pod;
mod reply;
mod scene;
mod world;

use std::time::Duration;

pub(crate) use ca::{Ca, server_config, server_config_for, server_config_with};
pub(crate) use node::Node;
pub(crate) use pod::{PODS, PodScene, condition, desired, rfc3339};
pub(crate) use reply::{End, ReceivedRequest, Reply, chunk, list_of};
pub(crate) use scene::{Scene, desired_csr};
pub(crate) use world::World;

pub(crate) const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// The time at which the tests begin, on 2026-11-23.
pub(crate) const EPOCH: i64 = 1_795_392_000;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
