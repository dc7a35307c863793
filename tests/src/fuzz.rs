//! The bodies of the fuzz targets: each takes any bytes, and checks properties that hold for every input.
//!
//! The bodies are in this library so that an ordinary test can replay the corpora (`tests/corpora.rs`). Most inputs are
//! text in pieces. The byte `0xff` ends a piece. The byte `0xfe` and the byte after it together stand for a word that a
//! fuzzer could not invent, such as a signed certificate.

mod client;
mod directory;
mod kubeconfig;
mod pki;
mod server;
mod text;
mod texts;
mod x509;

use crate::fleet::FleetScript;
use crate::laws;
use crate::script::Script;

pub use client::csr_client;
pub use client::pod::pod_client;
pub use directory::directory;
pub use kubeconfig::kubeconfig;
pub use server::server;
pub use texts::texts;
pub use x509::pem_x509;

/// A target: takes any bytes, and panics if a property does not hold.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also the name of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 9] = [
    ("csr_client", csr_client),
    ("directory", directory),
    ("fleet", fleet),
    ("kubeconfig", kubeconfig),
    ("pem_x509", pem_x509),
    ("pod_client", pod_client),
    ("rotation", rotation),
    ("server", server),
    ("texts", texts),
];

/// Decodes a hostile life of a machine from the bytes, runs it, and checks that the machine keeps every law.
pub fn rotation(bytes: &[u8]) {
    let script = Script::decode(bytes);
    let trace = script.run();
    if let Err(broken) = laws::check(&trace) {
        panic!("{broken}\n{trace}\n{script:#?}");
    }
}

/// Decodes a hostile life of a fleet from the bytes, runs it, and checks the laws of fleets, and those of machines for
/// each member.
pub fn fleet(bytes: &[u8]) {
    let script = FleetScript::decode(bytes);
    let traces = script.run().unwrap_or_else(|broken| panic!("{broken}\n{script:#?}"));
    for trace in traces {
        if let Err(broken) = laws::check(&trace) {
            panic!("{broken}\n{trace}\n{script:#?}");
        }
    }
}
