//! A rotation with its first request in flight. The test answers the request.

use std::sync::Arc;

use perennial::{Now, RequestId, Template};
use perennial_kubernetes::CsrSigner;
use perennial_pki::Chain;
use perennial_rotation::{Authentication, Command, Health, Identity, Input, Issued, Rotation, Start};

use super::Scene;

/// A node that has submitted its first request at `now`.
pub(crate) struct Node {
    pub(crate) rotation: Rotation,
    pub(crate) now: Now,
    pub(crate) request: RequestId,
    pub(crate) public_key: Vec<u8>,
}

impl Node {
    pub(crate) fn asking(template: Template, now: Now, adjust: impl FnOnce(&mut CsrSigner)) -> Self {
        let mut signer = CsrSigner::kubelet_client(Scene::new().cluster(), None);
        signer.authentication = Authentication::other(Identity::Anonymous);
        adjust(&mut signer);
        let (signer, template) = (Some(Arc::new(signer) as _), Some(Arc::new(template)));
        let mut rotation = Rotation::new(Start { signer, template, ..Start::default() }, now);
        let (mut request, mut key) = (None, None);
        for command in rotation.handle(Input::Tick, now) {
            match command {
                Command::Save { record } => key = record.key,
                Command::Drive { id, .. } => request = Some(id),
                Command::Drop { .. } | Command::Key { .. } | Command::Write { .. } => {}
            }
        }
        Self { rotation, now, request: request.unwrap(), public_key: key.unwrap().public_key_der().to_vec() }
    }

    pub(crate) fn issued(&mut self, pem: &str, health: Option<Health>) {
        let chain = Chain::from_pem(pem.as_bytes()).unwrap();
        let result = Ok(Issued { chain, requests: 2, health, renewal: None });
        self.rotation.handle(Input::Finished { id: self.request, result }, self.now);
    }
}
