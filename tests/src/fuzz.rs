//! The bodies of the fuzz targets: any bytes at all, and what must hold whatever they are.
//!
//! Here, so that an ordinary test can replay what a fuzzer kept (`tests/corpora.rs`). To a fuzzer the bytes are text
//! first: `0xff` ends a piece of it, `0xfe` and another byte stand for something it could not invent.

mod client;
mod directory;
mod kubeconfig;
mod pki;
mod server;
mod text;
mod texts;
mod x509;

use crate::laws;
use crate::script::Script;

pub use client::csr_client;
pub use directory::directory;
pub use kubeconfig::kubeconfig;
pub use server::server;
pub use texts::texts;
pub use x509::pem_x509;

/// Takes any bytes, and panics if something does not hold.
pub type Target = fn(&[u8]);

/// Every target and its name, which is also that of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 7] = [
    ("csr_client", csr_client),
    ("directory", directory),
    ("kubeconfig", kubeconfig),
    ("pem_x509", pem_x509),
    ("rotation", rotation),
    ("server", server),
    ("texts", texts),
];

/// No life breaks a law.
pub fn rotation(bytes: &[u8]) {
    let script = Script::decode(bytes);
    let trace = script.run();
    if let Err(broken) = laws::check(&trace) {
        panic!("{broken}\n{trace}\n{script:#?}");
    }
}
