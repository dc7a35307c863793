//! Writes a pair to the public files.

use perennial::UnixTime;
use perennial_pki::{Credential, Roots};
use zeroize::Zeroizing;

use super::found::are_for_same;
use super::layout::Content;
use super::{Bytes, CaCopy, FileStore, FileStoreError};
use crate::files::{self, MAX_BUNDLE};

/// Why the public files are at least as new as a pair that the store was to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// The public files were those of the pair already.
    Already,
    /// The public files are those of a newer pair, and stay.
    Newer,
    /// The store wrote the files of the pair.
    Written,
}

impl FileStore {
    /// Writes the public files, unless they are those of `credential` or of a newer pair.
    pub(super) fn publish_if_changed(
        &self,
        credential: &Credential,
        now: UnixTime,
    ) -> Result<Published, FileStoreError> {
        let contents = self.contents(credential)?;
        if self.files.are(&contents)? {
            self.unpublished.note(None, now);
            return Ok(Published::Already);
        }
        let is_newer = |found: &Credential| {
            let (found, ours) = (found.chain().certificate(), credential.chain().certificate());
            are_for_same(&found.names, &ours.names)
                && found.validity.not_before() <= now
                && found.validity.not_after() > ours.validity.not_after()
        };
        if self.found_pair().is_ok_and(|found| found.is_some_and(|found| is_newer(&found))) {
            self.unpublished.note(None, now);
            return Ok(Published::Newer);
        }
        self.publish(credential, &contents, now)?;
        Ok(Published::Written)
    }

    /// Writes the public files. The pair must be durable in the private directory.
    pub(super) fn publish(
        &self,
        credential: &Credential,
        contents: &[Option<Bytes>],
        now: UnixTime,
    ) -> Result<(), FileStoreError> {
        let published = self.replace_files(credential, contents, now);
        self.unpublished.note(published.as_ref().err(), now);
        published
    }

    fn replace_files(
        &self,
        credential: &Credential,
        contents: &[Option<Bytes>],
        now: UnixTime,
    ) -> Result<(), FileStoreError> {
        let names = &credential.chain().certificate().names;
        self.check_replaceable(names.common_name(), Some(names), now)?;
        let ca = self.files.all.iter().zip(contents).find(|(file, _)| file.content == Content::Ca);
        if let Some((_, Some(ca))) = ca {
            self.check_ca(ca, now)?;
        }
        self.files.create_directories()?;
        let replaces_links = self.options.replaces_foreign;
        match self.files.is_linked {
            true => self.files.switch(contents, replaces_links, now),
            false => self.files.replace(contents, replaces_links),
        }
    }

    /// The contents of each file, in the order of [`Files::all`]; `None` for a CA file whose source cannot be read now:
    /// the CA file keeps its contents.
    pub(super) fn contents(&self, credential: &Credential) -> Result<Vec<Option<Bytes>>, FileStoreError> {
        let chain = credential.chain().pem();
        let mut contents = Vec::new();
        for file in &self.files.all {
            let key = || {
                let encoded = credential.key().to_pem_as(self.options.key_encoding);
                let algorithm = credential.key().algorithm();
                encoded.ok_or_else(|| FileStoreError::Encoding { path: self.files.path(file), algorithm })
            };
            contents.push(match file.content {
                Content::Ca => self.ca(),
                Content::Chain => Some(Zeroizing::new(chain.as_bytes().to_vec())),
                Content::Key => Some(Zeroizing::new(key()?.as_bytes().to_vec())),
                Content::Bundle => Some(Zeroizing::new([chain.as_bytes(), key()?.as_bytes()].concat())),
            });
        }
        Ok(contents)
    }

    /// Reads the CA certificates to copy. Logs a warning and returns `None` if there are none.
    pub(super) fn ca(&self) -> Option<Bytes> {
        let CaCopy { from, to } = self.options.ca.as_ref()?;
        let read = files::read(from, MAX_BUNDLE).map_err(|error| error.to_string());
        let checked = read.and_then(|content| match Roots::from_pem(&content.bytes) {
            Ok(_) => Ok(content.bytes),
            Err(error) => Err(format!("{}: {error}", from.display())),
        });
        let warn = |why| tracing::warn!("cannot copy CA certificates to {}: {why}; keeping the file", to.display());
        checked.map_err(warn).ok()
    }
}
