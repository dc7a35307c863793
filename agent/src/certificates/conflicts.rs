//! The rules between members: no dependency cycles, and no file that two members write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use perennial_rotation::{FileLayout, ProjectedVolume};

use super::member::{Asker, ListedBundle, Location, Member, VolumeFiles};
use super::read::Placed;
use super::reader::Section;

/// Reports dependency cycles: no member of a cycle could ever make its first request.
pub(super) fn check_cycles(placed: &[Placed<'_>]) {
    let index: HashMap<&str, usize> =
        placed.iter().enumerate().map(|(index, placed)| (placed.member.name.as_str(), index)).collect();
    // 0: not visited, 1: on the path from `start`, 2: leads to no cycle that was not reported.
    let mut state = vec![0_u8; placed.len()];
    for start in 0..placed.len() {
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.last_mut() {
            state[*at] = state[*at].max(1);
            let after = &placed[*at].member.after;
            let Some(name) = after.get(*next) else {
                state[*at] = 2;
                path.pop();
                continue;
            };
            *next += 1;
            match index.get(name.as_str()) {
                Some(other) if state[*other] == 0 => path.push((*other, 0)),
                Some(other) if state[*other] == 1 => {
                    let from = path.iter().position(|(at, _)| at == other).unwrap_or(0);
                    report_cycle(placed, &path[from..].iter().map(|(at, _)| *at).collect::<Vec<_>>());
                }
                _ => {}
            }
        }
    }
}

fn report_cycle(placed: &[Placed<'_>], cycle: &[usize]) {
    // A member that waits for itself has its own error.
    let [first, _, ..] = cycle else { return };
    let names: Vec<&str> = cycle.iter().chain([first]).map(|at| placed[*at].member.name.as_str()).collect();
    let Placed { section, .. } = &placed[*first];
    let key = if section.has("after") { "after" } else { "identity" };
    let why = format!(
        "each of these certificates waits for the next: {}; change `after` or `identity` of one of them, else none is \
         ever requested",
        names.join(" -> ")
    );
    section.fault(key, why);
}

/// The use of a path by a member.
struct Claim<'a> {
    by: &'a Placed<'a>,
    /// The field that names the path.
    key: &'static str,
    path: PathBuf,
}

/// Reports paths that two members write, that one member writes and another reads, and paths of which one is a file
/// and the other a directory.
pub(super) fn check_files(list: &Path, placed: &[Placed<'_>]) {
    let mut written: HashMap<PathBuf, Claim<'_>> = HashMap::new();
    let mut directories: HashMap<PathBuf, Claim<'_>> = HashMap::new();
    for by in placed {
        for path in written_by(&by.member) {
            let claim = Claim { by, key: "store", path };
            match written.get(&claim.path) {
                Some(first) if std::ptr::eq(first.by, by) => {
                    fault(
                        &claim,
                        &format!("{} is named twice; give each file a path of its own", claim.path.display()),
                    );
                }
                Some(first) => {
                    let (path, first) = (claim.path.display(), &first.by.member.name);
                    fault(&claim, &format!("certificate {first} writes {path}, too; name another file"));
                }
                None => drop(written.insert(claim.path.clone(), claim)),
            }
        }
        for directory in directories_of(&by.member) {
            directories.entry(directory.clone()).or_insert(Claim { by, key: "store", path: directory });
        }
    }
    let in_directories: Vec<_> = placed.iter().filter(|placed| named_files(&placed.member).is_some()).collect();
    let linked: HashMap<_, _> =
        placed.iter().filter_map(|placed| linked_directory(placed).map(|path| (path, placed))).collect();
    let volumes = volumes(placed);
    for claim in written.values() {
        check_volume(claim, &volumes);
        check_place(claim, &written, &directories, &in_directories, &linked);
    }
    for by in placed {
        for (key, path) in read_by(&by.member) {
            if let Some(writer) = written.get(&path) {
                let (path, writer) = (path.display(), &writer.by.member.name);
                fault(
                    &Claim { by, key, path: PathBuf::new() },
                    &format!("certificate {writer} writes {path}; name a file that no certificate of this list writes"),
                );
            }
        }
    }
    if let Some(claim) = written.get(list) {
        fault(
            claim,
            &format!(
                "{} is this certificate list; name another file, since the certificate would overwrite it",
                list.display()
            ),
        );
    }
}

/// Sets the volumes of trust bundles whose path is in a volume. Reports trust bundles whose file another trust bundle or a
/// certificate writes, that do not fit into their volume, or that lie in the directory of a store `linked`. A certificate
/// may read the file of a trust bundle (`issuerCAFile`).
pub(super) fn check_bundles(list: &Path, placed: &[Placed<'_>], bundles: &mut [(Section<'_>, ListedBundle)]) {
    let mut written: HashMap<PathBuf, String> = HashMap::from([(list.to_owned(), "this certificate list".to_owned())]);
    let mut alone = HashMap::<&Path, &str>::new();
    for by in placed {
        let name = by.member.name.as_str();
        written.extend(written_by(&by.member).into_iter().map(|path| (path, format!("a file of certificate {name}"))));
        alone.extend(linked_directory(by).map(|path| (path, name)));
    }
    for (number, (section, listed)) in bundles.iter_mut().enumerate() {
        let path = listed.bundle.path.clone();
        let shown = path.display();
        if let Some(other) = written.get(&path) {
            section.fault("path", format!("{shown} is {other}, too; give each file a path of its own"));
        } else if let Some(name) = path.parent().and_then(|parent| alone.get(parent)) {
            let why = format!(
                "{shown} lies in the directory of certificate {name}, whose store `linked` needs a directory for it alone; \
                 name another directory"
            );
            section.fault("path", why);
        } else if let Some(volume) = placed.iter().filter_map(volume_of).find(|files| path.starts_with(&files.path)) {
            check_bundle_in_volume(section, listed, volume, written.keys());
            listed.volume = Some((volume.path.clone(), volume.access.owner));
        }
        written.insert(path, format!("the file of trust bundle {}", number + 1));
    }
}

/// Reports a trust bundle that does not fit into a volume. `written` are the files of the list.
fn check_bundle_in_volume<'a>(
    section: &Section<'_>,
    listed: &ListedBundle,
    volume: &VolumeFiles,
    mut written: impl Iterator<Item = &'a PathBuf>,
) {
    let (path, options) = (&listed.bundle.path, &listed.bundle.options);
    let inner = path.strip_prefix(&volume.path).ok().and_then(Path::to_str).unwrap_or_default();
    if let Err(why) = ProjectedVolume::check_path(inner) {
        section.fault("path", why.to_string());
    }
    if let Some(other) = written.find(|other| other.starts_with(path) || path.starts_with(other)) {
        let (shown, other) = (path.display(), other.display());
        let why = format!(
            "{shown} does not go together with {other}: one of them would be a file and a directory; name another path"
        );
        section.fault("path", why);
    }
    if options.owner.is_some_and(|owner| volume.access.owner.is_some_and(|other| other != owner)) {
        section.fault("access", "the certificates of this volume have another owner; use the same `owner`");
    }
    if options.replaces_foreign {
        section.fault("replaceForeign", "has no effect in a volume; remove this key, or name a path elsewhere");
    }
}

/// The directory in kubelet's layout that a member has, and the prefix of its files there.
fn named_files(member: &Member) -> Option<(&Path, &str)> {
    match &member.location {
        Location::Directory { path, prefix } => Some((path, prefix)),
        Location::Volume(VolumeFiles { private, .. }) => Some((private, &member.name)),
        Location::Files(..) => None,
    }
}

/// The files of a member in a volume.
fn volume_of<'a>(placed: &'a Placed<'_>) -> Option<&'a VolumeFiles> {
    if let Location::Volume(files) = &placed.member.location { Some(files) } else { None }
}

/// The first member of each volume, by the path of the volume. Reports members that give a volume another owner.
fn volumes<'a, 's>(placed: &'a [Placed<'s>]) -> HashMap<&'a Path, &'a Placed<'s>> {
    let mut volumes = HashMap::new();
    for by in placed {
        let Some(files) = volume_of(by) else { continue };
        let first: &Placed<'_> = volumes.entry(files.path.as_path()).or_insert(by);
        if volume_of(first).is_some_and(|first| first.access.owner != files.access.owner) {
            let (path, first) = (files.path.display(), &first.member.name);
            let why = format!(
                "certificate {first} gives the volume {path} another owner; use the same `access.owner` for all \
                 certificates of a volume"
            );
            by.section.fault("store", why);
        }
    }
    volumes
}

/// Reports a file that is in a volume, and not one of the volume's own files.
fn check_volume(claim: &Claim<'_>, volumes: &HashMap<&Path, &Placed<'_>>) {
    let own = volume_of(claim.by).filter(|own| !claim.path.starts_with(&own.private));
    let is_own = |volume: &Path| own.is_some_and(|own| own.path == volume);
    for (volume, other) in claim.path.ancestors().skip(1).filter_map(|above| volumes.get_key_value(above)) {
        if !is_own(volume) {
            let (path, volume, other) = (claim.path.display(), volume.display(), &other.member.name);
            let why = format!(
                "{path} lies in the volume {volume} of certificate {other}, which is for files of `store.volume` with \
                 this path alone; name another directory"
            );
            fault(claim, &why);
        }
    }
}

/// The directory of a store `linked`.
fn linked_directory<'a>(placed: &'a Placed<'_>) -> Option<&'a Path> {
    match &placed.member.location {
        Location::Files(FileLayout::Linked { directory, .. }, _) => Some(directory),
        Location::Files(FileLayout::Plain { .. } | FileLayout::Bundle { .. }, _)
        | Location::Directory { .. }
        | Location::Volume(_) => None,
    }
}

/// Reports a file whose path is a directory of another use, or that lies among the files of another member's store.
/// `in_directories` are the members in kubelet's layout, and `linked` those with a directory of their own, by its path.
fn check_place(
    claim: &Claim<'_>,
    written: &HashMap<PathBuf, Claim<'_>>,
    directories: &HashMap<PathBuf, Claim<'_>>,
    in_directories: &[&Placed<'_>],
    linked: &HashMap<&Path, &Placed<'_>>,
) {
    let path = claim.path.display();
    if let Some(other) = directories.get(&claim.path) {
        let other = &other.by.member.name;
        fault(claim, &format!("{path} is a directory of certificate {other}; give this file another path"));
    }
    if let Some(file) = claim.path.ancestors().skip(1).find_map(|above| written.get(above)) {
        let (file, other) = (file.path.display(), &file.by.member.name);
        fault(claim, &format!("{path} lies below {file}, a file of certificate {other}; name another directory"));
    }
    if let Some(alone) = claim.path.parent().and_then(|parent| linked.get(parent))
        && !std::ptr::eq(*alone, claim.by)
        && linked_directory(claim.by) != claim.path.parent()
    {
        let why = format!(
            "{path} lies in the directory of certificate {}, whose store `linked` needs a directory for it alone; name \
             another directory",
            alone.member.name
        );
        fault(claim, &why);
        return;
    }
    // The prefix of one member may begin like that of another.
    if named_files(&claim.by.member).is_some_and(|(directory, _)| claim.path.parent() == Some(directory)) {
        return;
    }
    let (Some(parent), Some(name)) = (claim.path.parent(), claim.path.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    for other in in_directories {
        let Some((directory, prefix)) = named_files(&other.member) else { continue };
        let is_like = name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['-', '.']));
        if directory == parent && is_like {
            let other = &other.member.name;
            let why = format!(
                "{path}: in this directory, names that begin with {prefix}- or {prefix}. are for the files of certificate \
                 {other}; give this file another name or directory"
            );
            fault(claim, &why);
        }
    }
}

fn fault(claim: &Claim<'_>, why: &str) {
    claim.by.section.fault(claim.key, why);
}

/// The files that a member writes by names of the list. Stores have further files of their own, whose names follow
/// from these.
pub(super) fn written_by(member: &Member) -> Vec<PathBuf> {
    let more = match &member.location {
        Location::Directory { path, prefix } => Some(path.join(format!("{prefix}-pending.json"))),
        Location::Files(FileLayout::Linked { directory, .. }, _) => Some(directory.join("..data")),
        Location::Files(FileLayout::Plain { .. } | FileLayout::Bundle { .. }, _) => None,
        Location::Volume(VolumeFiles { private, .. }) => Some(private.join(format!("{}-current.pem", member.name))),
    };
    more.into_iter().chain(member.files()).collect()
}

/// The directories that the files of a member are in.
fn directories_of(member: &Member) -> Vec<PathBuf> {
    let files = written_by(member);
    files.iter().filter_map(|file| file.parent()).flat_map(Path::ancestors).map(Path::to_owned).collect()
}

/// The files that a member reads, each with the field that names the file.
fn read_by(member: &Member) -> impl Iterator<Item = (&'static str, PathBuf)> {
    let asker = match &member.asker {
        Asker::Own { bootstrap_kubeconfig: path } | Asker::Kubeconfig(path) | Asker::TokenFile(path) => Some(path),
        Asker::Member(_) => None,
    };
    let pid = member.reaction.signal.as_ref().map(|signal| &signal.path);
    [
        asker.map(|path| ("identity", path)),
        Some(("clusterKubeconfig", &member.cluster_kubeconfig)),
        member.issuer_ca_file.as_ref().map(|path| ("issuerCAFile", path)),
        pid.map(|path| ("onRotated", path)),
    ]
    .into_iter()
    .flatten()
    .map(|(key, path)| (key, path.clone()))
}
