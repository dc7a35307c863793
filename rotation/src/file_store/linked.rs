//! Files of [`FileLayout::Linked`](super::FileLayout::Linked), which switch together.

use std::borrow::Cow;
use std::io::ErrorKind;

use perennial::UnixTime;
use perennial::store::Listing;

use super::layout::{Files, PublicFile};
use super::replace::failed;
use super::switch::{FileSource, Naming, Switch, SwitchedFile, link_of};
use super::{Bytes, FileStoreError};
use crate::directory::volume::Folder;

impl Files {
    /// The directory of files that switch together.
    pub(super) fn switched<'a>(&'a self, folder: &'a dyn Folder) -> Switch<'a> {
        Switch { folder, path: &self.directories[0].1, naming: Naming::Perennial }
    }

    /// Writes the files to a new directory, and switches `..data` to it. A file whose contents are `None` is copied from
    /// the old directory. If it is not in there, or another file has its name, that name stays as it is.
    pub(super) fn switch(
        &self,
        contents: &[Option<Bytes>],
        replaces_links: bool,
        now: UnixTime,
    ) -> Result<(), FileStoreError> {
        let folder = self.open(0)?;
        let switch = self.switched(&*folder);
        let old = switch.data()?;
        for file in &self.all {
            self.check_obstacle(&*folder, file, replaces_links)?;
        }
        let listing = folder.list().map_err(failed("list", switch.path))?;
        let files = self.new_contents(&*folder, &listing, contents, old.as_deref())?;
        switch.switch(&listing, old.as_deref(), &files, now)
    }

    /// The files of the new directory, with their contents.
    fn new_contents<'a>(
        &'a self,
        folder: &dyn Folder,
        listing: &Listing,
        contents: &'a [Option<Bytes>],
        old: Option<&str>,
    ) -> Result<Vec<SwitchedFile<'a>>, FileStoreError> {
        let mut all = Vec::new();
        for (file, contents) in self.all.iter().zip(contents) {
            let contents = match (contents, old) {
                (Some(contents), _) => Some(Cow::Borrowed(contents)),
                (None, Some(old)) => self.kept(folder, listing, file, old)?.map(Cow::Owned),
                (None, None) => None,
            };
            let source = contents.map(|contents| FileSource::New { contents, access: file.access });
            all.extend(source.map(|source| SwitchedFile { path: &file.name, source }));
        }
        Ok(all)
    }

    /// The contents of a file in the directory `old`; `None` if there are none, or another file has the file's name.
    fn kept(
        &self,
        folder: &dyn Folder,
        listing: &Listing,
        file: &PublicFile,
        old: &str,
    ) -> Result<Option<Bytes>, FileStoreError> {
        let path = self.path(file);
        let target = folder.link_target(&file.name).map_err(failed("read", &path))?;
        if target != Some(link_of(&file.name)) && listing.0.iter().any(|entry| entry.name == file.name) {
            return Ok(None);
        }
        match folder.folder(old).and_then(|old| old.read(&file.name)) {
            Ok(found) => Ok(found.map(|found| found.bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // The link would lead nowhere after a switch without the file.
            Err(error) => Err(FileStoreError::read(path, error)),
        }
    }
}
