//! The CAs that verify the API server if no file holds them: those in the kubeconfig, or the system's.

use std::env;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial_pki::Roots;
use perennial_rotation::{NotYet, RootsSource, clock};

use crate::latest::Latest;

/// Age from which the system's CAs are read again. Reading them takes tens of milliseconds, too long for each
/// connection.
const SYSTEM_AGE: Duration = Duration::from_secs(600);

/// CAs that the kubeconfig contains, which never change.
pub(crate) struct Inline {
    pub(crate) roots: Roots,
    /// The field that holds the CAs, and the path of the kubeconfig.
    pub(crate) origin: String,
}

impl RootsSource for Inline {
    fn roots(&self) -> Result<Roots, NotYet> {
        Ok(self.roots.clone())
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }
}

/// The system's CAs, read at the first connection, and again at a connection after [`SYSTEM_AGE`]. If a later read
/// finds no CA, the CAs of the read before stay trusted.
pub(crate) struct System {
    last: Mutex<Option<(Instant, Roots)>>,
    /// The source of the CAs and the time of their last read. Not in `last`, which is locked while CAs are read from
    /// disk: a message that names the source must not wait for a disk.
    origin: Latest<String>,
}

impl System {
    pub(crate) fn new() -> Self {
        Self { last: Mutex::default(), origin: Latest::new("the system's CA certificates, not read yet".to_owned()) }
    }
}

impl RootsSource for System {
    fn roots(&self) -> Result<Roots, NotYet> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((read, roots)) if read.elapsed() < SYSTEM_AGE => return Ok(roots.clone()),
            _ => {}
        }
        let found = rustls_native_certs::load_native_certs();
        match (Roots::from_der(found.certs), &*last) {
            (Ok(roots), _) => {
                let (sources, now) = (system_sources(), clock::now().unix);
                self.origin.set(format!("the system's CA certificates ({sources}), read at {now}"));
                *last = Some((Instant::now(), roots.clone()));
                Ok(roots)
            }
            // Keeps the time of the successful read, so that the next connection reads again.
            (Err(_), Some((_, before))) => Ok(before.clone()),
            (Err(_), None) => {
                let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                let why = format!(
                    "no certificate-authority is named, and the system has no CA certificates{why}; \
                     name the cluster's certificate-authority in the kubeconfig"
                );
                self.origin.set(format!("none: {why}"));
                Err(NotYet::new(why))
            }
        }
    }

    fn origin(&self) -> String {
        self.origin.get()
    }

    fn of_system(&self) -> bool {
        true
    }
}

/// The paths or variables from which rustls-native-certs reads the system's CA certificates.
fn system_sources() -> String {
    let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
    let set = variables.iter().filter_map(|name| Some(format!("{name}={}", env::var_os(name)?.display())));
    let set: Vec<String> = set.collect();
    if !set.is_empty() {
        return set.join(", ");
    }
    if cfg!(target_vendor = "apple") {
        return "the keychain".into();
    }
    let found = openssl_probe::probe();
    let places: Vec<_> = found.cert_file.iter().chain(&found.cert_dir).map(|path| path.display().to_string()).collect();
    places.join(", ")
}
