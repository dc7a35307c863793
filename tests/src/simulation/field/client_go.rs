//! client-go as a holder in a simulated cluster.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Now, Template};
use perennial_simulation::{Object, Oracle, Seen, Submitted, Surroundings};

use super::{Holder, HolderStart, Scene, SharedScene};

impl Surroundings for Scene {
    fn now(&self) -> Now {
        self.clocks.now
    }

    fn awake(&self) -> Duration {
        self.clocks.awake()
    }

    fn template(&self) -> Option<Arc<Template>> {
        self.template.clone()
    }

    fn submit(&mut self, template: &Arc<Template>) -> Submitted {
        self.cluster.submit(None, template)
    }

    fn watch(&self, object: Object) -> Seen {
        self.cluster.watch(object)
    }
}

impl Holder for Oracle<Scene> {
    fn run(&mut self) {
        self.run();
    }

    fn sleeps_until(&self) -> Option<Duration> {
        self.sleeps_until()
    }

    fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate()
    }

    fn restart(&mut self, _remembers: bool) {
        self.restart();
    }
}

/// Starts client-go's certificate manager as a [`Holder`].
pub fn client_go(scene: SharedScene, HolderStart { seed, certificate }: HolderStart) -> Oracle<Scene> {
    Oracle::begin(scene, seed, certificate)
}
