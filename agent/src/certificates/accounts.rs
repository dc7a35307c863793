//! Users and groups by name, from `/etc/passwd` and `/etc/group`.

use std::path::Path;

use perennial::printable;

use crate::files;

/// Parses the owner of a file: a user ID, or a name in `/etc/passwd`.
///
/// # Errors
/// The name is unknown, as a clause.
pub(super) fn user(text: &str) -> Result<u32, String> {
    id(text, Path::new("/etc/passwd"), "user")
}

/// Parses the group of a file: a group ID, or a name in `/etc/group`.
///
/// # Errors
/// The name is unknown, as a clause.
pub(super) fn group(text: &str) -> Result<u32, String> {
    id(text, Path::new("/etc/group"), "group")
}

fn id(text: &str, database: &Path, kind: &str) -> Result<u32, String> {
    // The largest ID is no ID: chown takes it for "unchanged".
    if let Some(id) = text.parse().ok().filter(|id| *id != u32::MAX) {
        return Ok(id);
    }
    let shown = database.display();
    let entries = files::read_text(database)
        .map_err(|error| format!("cannot read {shown} for the ID of the {kind} `{}`: {error}", printable(text)))?;
    find(&entries, text).ok_or_else(|| {
        format!(
            "{shown} has no {kind} `{}`; create the {kind} first, or write the numeric ID, as for a {kind} of LDAP",
            printable(text)
        )
    })
}

/// The ID of `name` in lines of the form `NAME:PASSWORD:ID:…`.
fn find(entries: &str, name: &str) -> Option<u32> {
    let fields = entries.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let id = |fields: Vec<&str>| (*fields.first()? == name).then(|| fields.get(2)?.parse().ok())?;
    fields.filter_map(id).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_found_by_exact_name_or_number() {
        let entries = "root:x:0:0::/root:/bin/sh\n# etcd:x:1:\netcd:x:998:997::/:\nbroken:x\nbad:x:many:\n";
        assert_eq!(find(entries, "etcd"), Some(998));
        assert_eq!(find(entries, "root"), Some(0));
        for unknown in ["etc", "broken", "bad", "", "x"] {
            assert_eq!(find(entries, unknown), None, "{unknown}");
        }
        assert_eq!(user("12"), Ok(12));
        assert_eq!((user("root"), group("root")), (Ok(0), Ok(0)));
        assert!(user("4294967295").is_err());
        assert!(group("no such group").is_err_and(|why| why.contains("/etc/group has no group `no such group`")));
    }
}
