//! The CAs that verify the API server: a file, read anew for each connection, or the system's.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial::UnixTime;
use perennial_kubernetes::cluster::{Trust, TrustSource};
use perennial_pki::Roots;
use perennial_rotation::clock;

use crate::files;
use crate::latest::Latest;

/// Age from which the system's CAs are read again. Reading them takes tens of milliseconds, too long for each
/// connection.
const SYSTEM_AGE: Duration = Duration::from_secs(600);

/// Text that names the source of the CAs and the time of their last read. Reading the text never waits for a disk.
pub(crate) type Origin = Latest<String>;

/// A CA file, as it was at the last successful read.
struct CaFile {
    pem: Vec<u8>,
    roots: Roots,
    read: UnixTime,
    /// The error of the last read; empty if the last read succeeded.
    trouble: String,
}

impl CaFile {
    fn read(&mut self, file: &Path) -> Result<(), String> {
        let pem = files::read(file).map_err(|error| error.to_string())?;
        if pem != self.pem {
            let roots = Roots::from_pem(&pem).map_err(|error| error.to_string())?;
            tracing::info!("{}: the CA bundle has changed; verifying the server with the new one", file.display());
            files::warn_of_skipped(file, roots.skipped());
            (self.pem, self.roots) = (pem, roots);
        }
        self.read = clock::now().unix;
        Ok(())
    }
}

/// A source of the CAs in a file, which is read anew for each connection. While the file is missing or damaged, the
/// source returns the CAs of the last successful read.
pub(crate) fn of_file(path: PathBuf, pem: Vec<u8>, roots: Roots) -> (TrustSource, Origin) {
    let read = clock::now().unix;
    let origin = Origin::new(format!("{}, read at {read}", path.display()));
    let last = Mutex::new(CaFile { pem, roots, read, trouble: String::new() });
    let shown = origin.clone();
    let source: TrustSource = Arc::new(move || {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = last.read(&path).err().unwrap_or_default();
        let (file, read) = (path.display(), last.read);
        if !trouble.is_empty() && trouble != last.trouble {
            tracing::warn!(
                "cannot read the CA bundle {file}: {trouble}; verifying the server with the CAs read at {read}"
            );
        }
        let state = if trouble.is_empty() { "" } else { "; it cannot be read now" };
        last.trouble = trouble;
        let origin = format!("{file}, read at {read}{state}");
        shown.set(origin.clone());
        Ok(Trust { roots: last.roots.clone(), origin, of_system: false })
    });
    (source, origin)
}

/// A source of the system's CAs, read at the first connection, and again after [`SYSTEM_AGE`]. If a later read finds
/// no CA, the source returns the CAs of the read before.
pub(crate) fn of_system() -> (TrustSource, Origin) {
    let cached: Mutex<Option<(Instant, Trust)>> = Mutex::default();
    let origin = Origin::new("the system's CA certificates, not read yet".to_owned());
    let shown = origin.clone();
    let source: TrustSource = Arc::new(move || {
        let mut cached = cached.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((read, trust)) if read.elapsed() < SYSTEM_AGE => return Ok(trust.clone()),
            _ => {}
        }
        let found = rustls_native_certs::load_native_certs();
        let trust = Roots::from_der(found.certs).map(|roots| {
            let origin = format!("the system's CA certificates ({}), read at {}", system_sources(), clock::now().unix);
            Trust { roots, origin, of_system: true }
        });
        match (trust, &*cached) {
            (Ok(trust), _) => {
                shown.set(trust.origin.clone());
                *cached = Some((Instant::now(), trust.clone()));
                Ok(trust)
            }
            // Keeps the time of the successful read, so that the next connection reads again.
            (Err(_), Some((_, before))) => Ok(before.clone()),
            (Err(_), None) => {
                let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                let why = format!(
                    "no certificate-authority is named, and the system has no CA certificates{why}; \
                     name the cluster's certificate-authority in the kubeconfig"
                );
                shown.set(format!("none: {why}"));
                Err(why)
            }
        }
    });
    (source, origin)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use perennial_dev::{Authority, Random};
    use tempfile::TempDir;

    use super::*;

    fn ca() -> String {
        let mut random = Random::from_os().unwrap();
        let authority = Authority::generate(&mut random, clock::now().unix, Duration::from_secs(86_400)).unwrap();
        authority.certificate_pem().to_owned()
    }

    #[test]
    fn last_good_cas_are_used_while_ca_file_is_damaged_or_missing() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("ca.crt");
        let (first, second) = (ca(), ca());
        fs::write(&path, &first).unwrap();
        let (source, seen) = of_file(path.clone(), first.clone().into(), Roots::from_pem(first.as_bytes()).unwrap());
        let (trusted, origin) = (|| source().unwrap().roots.pem().to_owned(), || source().unwrap().origin);
        assert!(seen.get().contains("ca.crt, read at 20"), "{}", seen.get());
        assert_eq!(trusted(), first);
        fs::write(&path, &second).unwrap();
        assert_eq!(trusted(), second);
        assert!(origin().contains("ca.crt, read at ") && !origin().contains("cannot"), "{}", origin());
        for damage in ["", "hello", &second[..second.len() / 2]] {
            fs::write(&path, damage).unwrap();
            assert_eq!(trusted(), second, "{damage:?}");
            assert!(origin().contains("it cannot be read now"), "{}", origin());
            assert_eq!(seen.get(), origin());
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(trusted(), second);
        fs::write(&path, &first).unwrap();
        assert_eq!(trusted(), first);
    }
}
