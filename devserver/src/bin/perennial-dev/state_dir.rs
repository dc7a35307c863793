//! The files that `signer` keeps for its next start: CA, bootstrap token, kubeconfigs.

use std::fs::{self, DirBuilder, DirEntry, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial::UnixTime;
use perennial_dev::{Authority, Random};
use perennial_pki::KeyPair;
use perennial_rotation::Token;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::Failure;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const TOKEN: &str = "bootstrap.token";
pub(crate) const ADMIN: &str = "admin.kubeconfig";
pub(crate) const BOOTSTRAP: &str = "bootstrap.kubeconfig";
const FILES: [&str; 5] = [CERTIFICATE, KEY, TOKEN, ADMIN, BOOTSTRAP];
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The directory of `--dir`, with a CA, a bootstrap token and two kubeconfigs.
pub(crate) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, or creates it (mode 0700). If the directory contains no other files than [`FILES`], removes
    /// the permissions of group and others.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| Failure::usage(format!("cannot create {}: {error}", path.display())))?;
        let ours = |entry: io::Result<DirEntry>| entry.is_ok_and(|entry| FILES.iter().any(|n| entry.file_name() == *n));
        if fs::read_dir(path).is_ok_and(|mut entries| entries.all(ours)) {
            make_private(path);
        }
        Ok(Self { path: path.to_owned() })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file of this directory (mode 0600) in one step: a program that reads the file meanwhile gets the old
    /// contents or the new ones, and no mixture.
    pub(crate) fn write(&self, name: &str, contents: &[u8]) -> Result<(), Failure> {
        let path = self.file(name);
        let replace = || {
            let mut file = NamedTempFile::new_in(&self.path)?;
            file.write_all(contents)?;
            file.persist(&path)?;
            Ok::<_, io::Error>(())
        };
        replace().map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))
    }

    /// Reads the CA. If neither its certificate nor its key is in the directory, generates a CA and writes both files.
    /// If only one of the two files exists, returns an error, which a person has to resolve.
    pub(crate) fn authority(&self, random: &mut Random, now: UnixTime) -> Result<Authority, Failure> {
        let (certificate, key) = (self.read(CERTIFICATE)?, self.read(KEY)?);
        let both = format!("{} and {}", self.file(CERTIFICATE).display(), self.file(KEY).display());
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let mut bundle = Zeroizing::new(String::with_capacity(certificate.len() + key.len() + 1));
                bundle.extend([certificate.as_str(), "\n", key.as_str()]);
                let authority = Authority::from_pem(&bundle);
                let authority = authority.map_err(|error| Failure::usage(format!("{both}: {error}")))?;
                let end = authority.validity().not_after();
                if authority.validity().expired(now) {
                    return Err(Failure::usage(format!(
                        "{both}: the CA expired at {end}; move both files away for a new CA"
                    )));
                }
                Ok(authority)
            }
            (None, None) => {
                let authority = Authority::generate(random, now, LIFETIME)?;
                let key = KeyPair::from_pem(authority.to_pem())?;
                self.write(KEY, key.to_pem().as_bytes())?;
                self.write(CERTIFICATE, authority.certificate_pem().as_bytes())?;
                Ok(authority)
            }
            (Some(_), None) | (None, Some(_)) => Err(Failure::usage(format!(
                "only one of {both} exists; restore the missing file, or move the other away for a new CA"
            ))),
        }
    }

    /// Reads the bootstrap token. If its file does not exist, generates a token and writes the file.
    pub(crate) fn token(&self, random: &mut Random) -> Result<Token, Failure> {
        let text = match self.read(TOKEN)? {
            Some(text) => text,
            None => {
                let token = random.bootstrap_token();
                self.write(TOKEN, token.as_bytes())?;
                token
            }
        };
        let token = Token::new(&text).ok().filter(|token| is_bootstrap_token(token.reveal()));
        token.ok_or_else(|| {
            let path = self.file(TOKEN);
            let what =
                "this is not a bootstrap token (such as abcdef.0123456789abcdef); move the file away for a new token";
            Failure::usage(format!("{}: {what}", path.display()))
        })
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => {
                make_private(&path);
                Ok(Some(Zeroizing::new(text)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
        }
    }
}

/// Removes the permissions of group and others from a secret file or directory. If there were any, warns that other
/// users may have read the file.
fn make_private(path: &Path) {
    let make = || {
        let mode = fs::metadata(path)?.permissions().mode();
        let others = mode & 0o077 != 0;
        if others {
            fs::set_permissions(path, Permissions::from_mode(mode & 0o700))?;
        }
        Ok::<_, io::Error>(others)
    };
    match make() {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            "{}: other users had access; removed their permissions, but they may have read it",
            path.display()
        ),
        Err(error) => {
            tracing::warn!("{}: cannot check or remove the permissions of other users: {error}", path.display())
        }
    }
}

/// True for `[a-z0-9]{6}\.[a-z0-9]{16}`, the form of kubeadm's bootstrap tokens.
fn is_bootstrap_token(token: &str) -> bool {
    let word = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token.split_once('.').is_some_and(|(id, secret)| word(id, 6) && word(secret, 16))
}
