//! Creates the directory of a certificate.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Creates a directory and its missing parents with mode 0700, and calls `sync` on the parent of each: without that, a
/// loss of power could remove the directory together with synced files in it.
pub(super) fn directory(path: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let create = || fs::DirBuilder::new().mode(0o700).create(path);
    let created = match (create(), parent) {
        (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound => {
            directory(parent, sync)?;
            create()
        }
        (created, _) => created,
    };
    // A directory that existed may not be durable: its creator may have been killed before the sync.
    if let Err(error) = created
        && !path.is_dir()
    {
        return Err(error);
    }
    // Opening for a sync fails for a parent that we may not read, or on some read-only disks: no reason not to start.
    if let Some(Err(error)) = parent.map(sync) {
        tracing::debug!("{} may not outlive a power failure: {error}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn making_directory_fails_for_empty_path_and_at_or_below_a_file() {
        let sync = &mut |_: &Path| panic!("there is nothing to sync");
        let error = directory(Path::new(""), sync).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let file = std::env::current_exe().unwrap();
        directory(&file, sync).unwrap_err();
        directory(&file.join("a"), sync).unwrap_err();
    }

    #[test]
    fn making_directory_syncs_each_parent_outermost_first() {
        let root = std::env::temp_dir().join(format!("perennial-make-{}", std::process::id()));
        let path = root.join("a/b");
        let mut synced = Vec::new();
        let mut sync = |at: &Path| {
            synced.push((at.to_owned(), fs::read_dir(at)?.count()));
            Ok(())
        };
        directory(&path, &mut sync).unwrap();
        directory(&path, &mut sync).unwrap();
        fs::remove_dir_all(&root).unwrap();
        // Each parent contains one entry when it is synced.
        assert_eq!(synced[0].0, std::env::temp_dir());
        assert_eq!(synced[1..], [(root.clone(), 1), (root.join("a"), 1), (root.join("a"), 1)]);
    }
}
