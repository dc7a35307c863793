//! Reads the public files, and decides whether they may be replaced.

use std::path::PathBuf;

use perennial::{Template, UnixTime};
use perennial_pki::{Chain, Credential, KeyPair};

use super::layout::{Content, Files, PublicFile};
use super::switch::link_of;
use super::{Bytes, FileStore, FileStoreError};

impl Files {
    /// Reads a file; `None` if it does not exist, or is empty.
    pub(super) fn read(&self, file: &PublicFile) -> Result<Option<Bytes>, FileStoreError> {
        let Some(folder) = self.existing(file.directory)? else { return Ok(None) };
        let contents = folder.read(&file.name);
        // A link that leads nowhere has nothing to lose.
        let contents = match contents {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            contents => contents.map_err(|error| FileStoreError::read(self.path(file), error))?,
        };
        Ok(contents.map(|contents| contents.bytes).filter(|bytes| !bytes.trim_ascii().is_empty()))
    }

    /// True if the files with the certificate and the key exist.
    pub(super) fn has_pair(&self) -> Result<bool, FileStoreError> {
        let mut pair = self.all.iter().filter(|file| file.content != Content::Ca);
        pair.try_fold(true, |is_there, file| Ok(is_there && self.read(file)?.is_some()))
    }

    /// The contents of all files, in their order. Files that switch together are read from one directory.
    fn read_all(&self) -> Result<Vec<Option<Bytes>>, FileStoreError> {
        let data = match self.is_linked {
            true => self.existing(0)?.map_or(Ok(None), |folder| self.switched(&*folder).data())?,
            false => None,
        };
        let Some(data) = data else { return self.all.iter().map(|file| self.read(file)).collect() };
        let path = self.directories[0].1.join(&data);
        let folder = self.open(0)?;
        let folder = folder.folder(&data).map_err(|error| FileStoreError::read(&path, error))?;
        let read = |file: &PublicFile| {
            let contents =
                folder.read(&file.name).map_err(|error| FileStoreError::read(path.join(&file.name), error))?;
            Ok(contents.map(|contents| contents.bytes))
        };
        self.all.iter().map(read).collect()
    }

    /// True if the files have these contents; `None` stands for any contents. If they switch together, true only if each
    /// of them leads through `..data`.
    pub(super) fn are(&self, contents: &[Option<Bytes>]) -> Result<bool, FileStoreError> {
        let Ok(found) = self.read_all() else { return Ok(false) };
        let are_same = contents.iter().zip(&found).all(|(wanted, found)| wanted.is_none() || wanted == found);
        if !self.is_linked || !are_same {
            return Ok(are_same);
        }
        for (file, _) in self.all.iter().zip(contents).filter(|(_, wanted)| wanted.is_some()) {
            if !self.is_switched(file)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True if the file is a link through `..data`.
    fn is_switched(&self, file: &PublicFile) -> Result<bool, FileStoreError> {
        let folder = self.existing(file.directory)?;
        Ok(folder.is_some_and(|folder| {
            folder.link_target(&file.name).is_ok_and(|target| target == Some(link_of(&file.name)))
        }))
    }

    /// The certificate and the key in the files.
    fn pair(&self) -> Result<[Option<(PathBuf, Bytes)>; 2], FileStoreError> {
        let (mut certificate, mut key) = (None, None);
        for (file, contents) in self.all.iter().zip(self.read_all()?) {
            let found = contents.map(|contents| (self.path(file), contents));
            match file.content {
                Content::Ca => {}
                Content::Chain => certificate = found,
                Content::Key => key = found,
                Content::Bundle => (certificate, key) = (found.clone(), found),
            }
        }
        Ok([certificate, key])
    }
}

impl FileStore {
    /// The pair in the public files; `None` if the files do not exist.
    ///
    /// # Errors
    /// The files cannot be read, another user could have written them, or they are no pair.
    pub(super) fn found_pair(&self) -> Result<Option<Credential>, FileStoreError> {
        let [Some((path, certificate)), Some((_, key))] = self.files.pair()? else { return Ok(None) };
        let pair = Credential::from_pair(&certificate, &key);
        pair.map(Some).map_err(|error| FileStoreError::Unrecognized { path, why: error.to_string() })
    }

    /// Fails if a public file is of another program and of another certificate than the wanted one. Without a common
    /// name, the certificate is known by its other `names`; `None` if they are not known yet.
    pub(super) fn check_replaceable(
        &self,
        common_name: &str,
        names: Option<&Template>,
        now: UnixTime,
    ) -> Result<(), FileStoreError> {
        if self.options.replaces_foreign {
            return Ok(());
        }
        let [certificate, key] = self.files.pair()?;
        let Some((path, pem)) = certificate else {
            // A key without its certificate: ours, if a crash has interrupted the first write.
            let Some((path, pem)) = key else { return Ok(()) };
            let key = KeyPair::from_pem(&*pem).map_err(|error| unrecognized(path.clone(), error))?;
            return match self.own(now).iter().any(|own| own.key().public_key_der() == key.public_key_der()) {
                true => Ok(()),
                false => Err(unrecognized(path, "this private key has no certificate, and perennial did not write it")),
            };
        };
        let chain = Chain::from_pem(&pem).map_err(|error| unrecognized(path.clone(), error))?;
        let found = &chain.certificate().names;
        let is_wanted = found.common_name() == common_name && names.is_none_or(|names| are_for_same(found, names));
        if is_wanted || self.own(now).iter().any(|own| *own.chain() == chain) {
            return Ok(());
        }
        let wanted = names.map_or_else(|| common_name.to_owned(), name_of);
        Err(FileStoreError::Foreign { path, name: name_of(found), wanted })
    }

    /// Fails if the CA file is of another program: it differs from `ca`, and is not beside a pair of this store.
    pub(super) fn check_ca(&self, ca: &[u8], now: UnixTime) -> Result<(), FileStoreError> {
        let file = self.files.all.iter().find(|file| file.content == Content::Ca);
        let Some(file) = file.filter(|_| !self.options.replaces_foreign) else { return Ok(()) };
        let Some(found) = self.files.read(file)? else { return Ok(()) };
        if found.as_slice() == ca || self.files.is_switched(file)? {
            return Ok(());
        }
        let own = self.own(now);
        let [certificate, key] = self.files.pair()?;
        let chain = certificate.and_then(|(_, pem)| Chain::from_pem(&pem).ok());
        // A crash may have replaced the key, but not the certificate.
        let key = key.and_then(|(_, pem)| KeyPair::from_pem(&*pem).ok());
        let is_own = own.iter().any(|own| {
            chain.as_ref() == Some(own.chain())
                || key.as_ref().is_some_and(|key| key.public_key_der() == own.key().public_key_der())
        });
        match is_own {
            true => Ok(()),
            false => Err(unrecognized(
                self.files.path(file),
                "these CA certificates differ from those to copy, and perennial did not write them",
            )),
        }
    }

    /// The pairs in the private directory: the current one and earlier ones.
    fn own(&self, now: UnixTime) -> Vec<std::sync::Arc<Credential>> {
        let current = self.private.load(None, now).ok().map(|loaded| loaded.credential);
        let current = current.flatten().map(|(credential, _)| credential);
        let previous = self.private.previous().unwrap_or_default().into_iter().map(|(credential, _)| credential);
        current.into_iter().chain(previous).collect()
    }
}

/// True if two certificates are for the same: the same common name, or without one, the same names.
pub(super) fn are_for_same(one: &Template, other: &Template) -> bool {
    one.common_name() == other.common_name() && (!one.common_name().is_empty() || one == other)
}

/// The common name, or all names of a certificate without one.
fn name_of(names: &Template) -> String {
    match names.common_name() {
        "" => names.to_string(),
        common_name => common_name.to_owned(),
    }
}

pub(super) fn unrecognized(path: PathBuf, why: impl ToString) -> FileStoreError {
    FileStoreError::Unrecognized { path, why: why.to_string() }
}

impl FileStoreError {
    /// Logs why the pair in the public files is not adopted.
    pub(super) fn log_unusable(&self) {
        match self {
            Self::Untrusted { path, why } => tracing::error!("{}: ignored and left in place: {why}", path.display()),
            error => tracing::warn!("cannot read the pair in the public files: {error}"),
        }
    }
}
