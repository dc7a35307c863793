//! Parses the place of a member's files: `store`, and the keys that shape the files.

use std::path::{Path, PathBuf};

use perennial_pki::{KeyAlgorithm, KeyEncoding};
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{CaCopy, FileLayout, FileOptions, ProjectedVolume, Projection};

use super::{absolute, flag};
use crate::certificates::accounts;
use crate::certificates::member::{Location, VolumeFiles};
use crate::certificates::reader::Section;
use crate::cli;

/// The directory of the private copies of certificates in volumes. Volumes may be lost when the machine restarts.
const STATE: &str = "/var/lib/perennial";

/// Parses the place of the files of a certificate. `private` is the path of its private copy, relative to the directory of
/// all private copies, if the files are in a volume.
pub(super) fn location(
    section: &Section<'_>,
    private: Option<PathBuf>,
    key_type: Option<KeyAlgorithm>,
    issuer_ca_file: Option<&PathBuf>,
) -> Option<Location> {
    let access = section.section("access").map(|section| access(&section)).unwrap_or_default();
    let options = FileOptions {
        replaces_foreign: section.parse("replaceForeign", flag).unwrap_or_default(),
        key_encoding: section.parse("keyEncoding", key_encoding).unwrap_or_default(),
        ..access
    };
    let store = section.section("store")?;
    let (layout, ca) = match store.choice(&["directory", "linked", "files", "bundle", "volume"])? {
        "directory" => {
            // `defaults` are for the other stores.
            for key in ["access", "keyEncoding", "replaceForeign"].into_iter().filter(|key| section.has(key)) {
                let why = "does not apply to `store.directory`, whose files are as kubelet's: PKCS#8, mode 0600; remove \
                           this key, or use another store";
                section.fault(key, why);
            }
            requires_volume(section);
            return directory(&store.section("directory")?);
        }
        "volume" => {
            for key in ["keyEncoding", "replaceForeign"].into_iter().filter(|key| section.has(key)) {
                let why = "does not apply to `store.volume`, whose keys are PKCS#8 as those of kubelet's volumes; remove \
                           this key, or use another store";
                section.fault(key, why);
            }
            if let Some(access) =
                section.section("access").filter(|access| section.has("access") && access.has("certificateMode"))
            {
                let why = "does not apply to `store.volume`, all of whose files have the mode `mode`; remove this key";
                access.fault("certificateMode", why);
            }
            let access = FileAccess { owner: options.owner, group: options.group, mode: options.key_mode };
            return volume(&store.section("volume")?, access, private);
        }
        "linked" => {
            let files = store.section("linked")?;
            requires_issuers(section, &files);
            linked(&files)?
        }
        "files" => {
            let files = store.section("files")?;
            files.allow(&["certificate", "key", "ca"]);
            files.require("certificate", "/etc/etcd/pki/peer.crt");
            files.require("key", "/etc/etcd/pki/peer.key");
            let [certificate, key, ca] = ["certificate", "key", "ca"].map(|key| files.parse(key, absolute));
            requires_issuers(section, &files);
            (FileLayout::Plain { certificate: certificate?, key: key? }, ca)
        }
        _ => {
            let bundle = store.section("bundle")?;
            bundle.allow(&["file", "ca"]);
            bundle.require("file", "/etc/haproxy/certs/site.pem");
            let [file, ca] = ["file", "ca"].map(|key| bundle.parse(key, absolute));
            requires_issuers(section, &bundle);
            (FileLayout::Bundle { file: file? }, ca)
        }
    };
    requires_volume(section);
    let fits = match (options.key_encoding, key_type) {
        (KeyEncoding::Pkcs1, Some(algorithm)) => algorithm.is_rsa(),
        (KeyEncoding::Sec1, Some(algorithm)) => algorithm.is_ecdsa(),
        _ => true,
    };
    if !fits {
        section.fault("keyEncoding", "pkcs1 is for RSA keys and sec1 for ECDSA keys; use pkcs8, or another keyType");
    }
    let ca = ca.zip(issuer_ca_file).map(|(to, from)| CaCopy { from: from.clone(), to });
    Some(Location::Files(layout, FileOptions { ca, ..options }))
}

fn key_encoding(text: &str) -> Result<KeyEncoding, &'static str> {
    match text {
        "pkcs8" => Ok(KeyEncoding::Pkcs8),
        "pkcs1" => Ok(KeyEncoding::Pkcs1),
        "sec1" => Ok(KeyEncoding::Sec1),
        _ => Err("expected pkcs8, pkcs1 (RSA keys) or sec1 (ECDSA keys)"),
    }
}

/// Reports a certificate of a pod whose store is no volume.
fn requires_volume(member: &Section<'_>) {
    if member.field("pod").is_some() {
        let why = "the certificate of a pod goes into a volume; use `store: {volume: {path: DIRECTORY, bundle: FILE}}`";
        member.fault("store", why);
    }
}

/// Reports a `ca` without `issuerCAFile`, the file of which `ca` is a copy.
fn requires_issuers(member: &Section<'_>, store: &Section<'_>) {
    if store.has("ca") && member.field("issuerCAFile").is_none() {
        let why = "this file is a copy of `issuerCAFile`, which this certificate lacks; add `issuerCAFile: FILE`";
        store.fault("ca", why);
    }
}

fn directory(section: &Section<'_>) -> Option<Location> {
    section.allow(&["path", "prefix"]);
    section.require("path", "/var/lib/kubelet/pki");
    section.require("prefix", "kubelet-client");
    let (path, prefix) = (section.parse("path", absolute), section.parse("prefix", cli::prefix));
    Some(Location::Directory { path: path?, prefix: prefix? })
}

/// Parses a `volume` store. `access` is that of the key.
fn volume(section: &Section<'_>, access: FileAccess, private: Option<PathBuf>) -> Option<Location> {
    section.allow(&["path", "bundle", "key", "certificateChain", "state"]);
    section.require("path", "/var/lib/kubelet/pods/UID/volumes/kubernetes.io~projected/tls");
    let path = section.parse("path", absolute);
    let file = |key| section.parse(key, |text| ProjectedVolume::check_path(text).map(|()| text.to_owned()));
    let [bundle, key, chain] = ["bundle", "key", "certificateChain"].map(file);
    match ["bundle", "key", "certificateChain"].map(|key| section.field(key).is_some()) {
        [true, false, false] | [false, true, true] => {}
        [true, ..] => section
            .fault("bundle", "this file has the key and the chain; remove `key` and `certificateChain`, or this key"),
        [false, true, false] => section.require("certificateChain", "tls.crt"),
        [false, false, true] => section.require("key", "tls.key"),
        [false, false, false] => section.require("bundle", "credentialbundle.pem"),
    }
    let projection = match (bundle, key.zip(chain)) {
        (Some(path), None) => Projection::Bundle { path },
        (None, Some((key, certificate_chain))) => Projection::Files { key, certificate_chain },
        (Some(_), Some(_)) | (None, None) => return None,
    };
    let state = match section.field("state") {
        Some(_) => section.parse("state", absolute)?,
        None => Path::new(STATE).to_owned(),
    };
    Some(Location::Volume(VolumeFiles { path: path?, projection, access, private: state.join(private?) }))
}

/// Parses a `linked` store: its layout, and the path of the CA copy.
fn linked(section: &Section<'_>) -> Option<(FileLayout, Option<PathBuf>)> {
    section.allow(&["path", "certificate", "key", "ca"]);
    section.require("path", "/etc/kube-proxy/pki");
    let name = |key, default: &str| match section.field(key) {
        Some(_) => section.parse(key, file_name),
        None => Some(default.to_owned()),
    };
    let (path, certificate, key) =
        (section.parse("path", absolute), name("certificate", "tls.crt"), name("key", "tls.key"));
    let ca = section.parse("ca", file_name);
    let directory = path?;
    let ca = ca.map(|ca| directory.join(ca));
    Some((FileLayout::Linked { directory, certificate: certificate?, key: key? }, ca))
}

/// Parses `access`: owner, group and modes.
fn access(section: &Section<'_>) -> FileOptions {
    section.allow(&["owner", "group", "mode", "certificateMode"]);
    let default = FileOptions::default();
    FileOptions {
        owner: section.parse("owner", accounts::user),
        group: section.parse("group", accounts::group),
        key_mode: section.parse("mode", |text| mode(text, 0o640)).unwrap_or(default.key_mode),
        certificate_mode: section
            .parse("certificateMode", |text| mode(text, 0o644))
            .unwrap_or(default.certificate_mode),
        ..default
    }
}

/// Parses `access` of a public file: owner, group and mode.
pub(super) fn public_access(section: &Section<'_>) -> FileOptions {
    section.allow(&["owner", "group", "mode"]);
    let default = FileOptions::default();
    FileOptions {
        owner: section.parse("owner", accounts::user),
        group: section.parse("group", accounts::group),
        certificate_mode: section.parse("mode", |text| mode(text, 0o644)).unwrap_or(default.certificate_mode),
        ..default
    }
}

/// Parses the mode of a file: octal digits, no more permissions than `most`, and readable for the owner.
fn mode(text: &str, most: u32) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| digits.len() >= 3);
    let fits = |mode: &u32| mode & !most == 0 && mode & 0o400 != 0;
    mode.filter(fits).ok_or_else(|| {
        format!(
            "expected a mode of at most {most:04o} that lets the owner read, for example 0600 or {most:04o}: others \
             must not change the files or read a private key"
        )
    })
}

/// Parses the name of a file in the directory of a `linked` store.
fn file_name(text: &str) -> Result<String, &'static str> {
    match text.is_empty() || text.starts_with('.') || text.contains(['/', '\0']) {
        true => Err("expected a file name without '/', not beginning with '.', for example tls.crt"),
        false => Ok(text.to_owned()),
    }
}
