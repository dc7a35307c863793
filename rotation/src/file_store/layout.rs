//! The public files of a [`FileStore`](super::FileStore): names, contents and directories.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use perennial_pki::KeyEncoding;

use super::FileStoreError;
use crate::directory::volume::{FileAccess, Folder, Volume};

/// The files that other programs read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileLayout {
    /// Files in one directory that switch together: each is a link through `..data`, which is switched atomically.
    Linked {
        /// The directory, which contains no other certificate.
        directory: PathBuf,
        /// The name of the file with the certificate chain.
        certificate: String,
        /// The name of the file with the private key.
        key: String,
    },
    /// Two files, replaced one after the other.
    Plain {
        /// The path of the file with the certificate chain.
        certificate: PathBuf,
        /// The path of the file with the private key.
        key: PathBuf,
    },
    /// One file with the certificate chain and, behind it, the private key.
    Bundle {
        /// The path of the file.
        file: PathBuf,
    },
}

/// Owner, modes and contents of the files of a [`FileStore`](crate::FileStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// The numeric user ID of the files' owner; `None`: the user of this process. With another owner, a process without
    /// the rights of root needs the capabilities `CAP_CHOWN`, `CAP_FOWNER` (the mode of a file that belongs to that
    /// owner) and `CAP_DAC_READ_SEARCH` (reading the files back).
    pub owner: Option<u32>,
    /// The numeric group ID of the files; `None`: the group of this process.
    pub group: Option<u32>,
    /// The mode of files with the private key: `0o600` by default.
    pub key_mode: u32,
    /// The mode of files without a private key: `0o644` by default.
    pub certificate_mode: u32,
    /// The encoding of the private key: PKCS#8 by default.
    pub key_encoding: KeyEncoding,
    /// A copy of CA certificates beside the pair; `None`: no copy.
    pub ca: Option<CaCopy>,
    /// True to replace files of other programs, and symbolic links in the place of files. False by default.
    pub replaces_foreign: bool,
}

/// A copy of CA certificates, made with each new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaCopy {
    /// The file with the CA certificates (PEM).
    pub from: PathBuf,
    /// The copy. For a [`FileLayout::Linked`], a path in its directory.
    pub to: PathBuf,
}

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Ca,
    Key,
    Chain,
    Bundle,
}

/// A public file.
#[derive(Debug)]
pub(super) struct PublicFile {
    /// Index in [`Files::directories`].
    pub(super) directory: usize,
    pub(super) name: String,
    pub(super) content: Content,
    pub(super) access: FileAccess,
}

/// The public files, and the directories that they are in.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) directories: Vec<(Box<dyn Volume>, PathBuf)>,
    /// The files in the order in which they are replaced: the certificate is last, so that a reader that notices the
    /// new certificate finds its key.
    pub(super) all: Vec<PublicFile>,
    pub(super) is_linked: bool,
}

impl Files {
    pub(super) fn new(
        layout: &FileLayout,
        options: &FileOptions,
        volume: impl Fn(&Path) -> Box<dyn Volume>,
    ) -> Result<Self, FileStoreError> {
        let (pair, is_linked) = match layout {
            FileLayout::Linked { directory, certificate, key } => {
                (vec![(directory.join(key), Content::Key), (directory.join(certificate), Content::Chain)], true)
            }
            FileLayout::Plain { certificate, key } => {
                (vec![(key.clone(), Content::Key), (certificate.clone(), Content::Chain)], false)
            }
            FileLayout::Bundle { file } => (vec![(file.clone(), Content::Bundle)], false),
        };
        let ca = options.ca.iter().map(|ca| (ca.to.clone(), Content::Ca));
        Self::of(ca.chain(pair), is_linked, options, volume)
    }

    /// Makes the public files at these paths.
    pub(super) fn of(
        paths: impl IntoIterator<Item = (PathBuf, Content)>,
        is_linked: bool,
        options: &FileOptions,
        volume: impl Fn(&Path) -> Box<dyn Volume>,
    ) -> Result<Self, FileStoreError> {
        let mut files = Self { directories: Vec::new(), all: Vec::new(), is_linked };
        for (path, content) in paths {
            let bad = |why| FileStoreError::Layout { path: path.clone(), why };
            let name = path.file_name().ok_or_else(|| bad("this path names no file"))?;
            let name = name.to_str().ok_or_else(|| bad("a file name must be UTF-8"))?;
            if name.starts_with('.') {
                return Err(bad("a file name must not begin with a dot"));
            }
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or_else(|| Path::new("."));
            let known = files.directories.iter().position(|(_, path)| path == parent);
            let directory = known.unwrap_or_else(|| {
                files.directories.push((volume(parent), parent.to_owned()));
                files.directories.len() - 1
            });
            if files.all.iter().any(|other| (other.directory, other.name.as_str()) == (directory, name)) {
                return Err(bad("two files have this path; give each its own"));
            }
            let access = options.access(content);
            files.all.push(PublicFile { directory, name: name.to_owned(), content, access });
        }
        match &files.directories[..] {
            [(_, path), _, ..] if is_linked => Err(FileStoreError::Layout {
                path: path.clone(),
                why: "files that switch together must be in one directory",
            }),
            _ => Ok(files),
        }
    }

    /// The directory and the name of the file with the key.
    pub(super) fn private(&self) -> (&Path, &str) {
        // Every layout has such a file.
        let is_secret = |file: &&PublicFile| matches!(file.content, Content::Key | Content::Bundle);
        self.all.iter().find(is_secret).map_or_else(
            || (Path::new("."), ""),
            |file| (self.directories[file.directory].1.as_path(), file.name.as_str()),
        )
    }

    /// Path of the file with the certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.all.last().map(|file| self.path(file)).unwrap_or_default()
    }

    pub(super) fn path(&self, file: &PublicFile) -> PathBuf {
        self.directories[file.directory].1.join(&file.name)
    }

    /// Creates missing directories.
    pub(super) fn create_directories(&self) -> Result<(), FileStoreError> {
        self.directories
            .iter()
            .try_for_each(|(volume, path)| volume.create().map_err(|error| FileStoreError::io("create", path, error)))
    }

    /// Opens a directory.
    pub(super) fn open(&self, directory: usize) -> Result<Box<dyn Folder + '_>, FileStoreError> {
        let (volume, path) = &self.directories[directory];
        volume.open().map_err(|error| FileStoreError::io("open", path, error))
    }

    /// Opens a directory; `None` if it does not exist.
    pub(super) fn existing(&self, directory: usize) -> Result<Option<Box<dyn Folder + '_>>, FileStoreError> {
        let (volume, path) = &self.directories[directory];
        match volume.open() {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileStoreError::io("open", path, error)),
        }
    }

    /// Checks that the directories which exist can be written to, and that no file is a mount point.
    pub(super) fn check(&self) -> Result<(), FileStoreError> {
        for (index, (_, path)) in self.directories.iter().enumerate() {
            let Some(folder) = self.existing(index)? else { continue };
            let mut mine = self.all.iter().filter(|file| file.directory == index);
            if let Some(file) = mine.find(|file| folder.is_mount_point(&file.name)) {
                let why = "this file is a mount point, which cannot be replaced; mount its directory instead";
                return Err(FileStoreError::Layout { path: path.join(&file.name), why });
            }
            if self.is_linked {
                self.switched(&*folder).data()?;
            }
            match folder.is_free() {
                // A pair can be read from a disk that is read-only or full; writes report their own errors.
                Err(error) if !error.is_of_the_disk() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
