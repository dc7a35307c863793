//! Certificate directories with good and unusable pairs, which another program may use, too. No command of perennial
//! makes such a directory worse.
//!
//! Every pair is tried with `run`, which may replace an unusable pair by a newer one of the same node, and with
//! commands that must change nothing: `run` without rotation, `run` with a bad kubeconfig, `status`, `verify`. Files
//! are compared by name, kind, mode, owner, target and contents.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::support::{Ca, Signer, perennial, run_arguments, start};
use perennial_pki::Credential;
use perennial_tests::openssl::{openssl, openssl_binary};
use rustix::process::Signal;
use tempfile::TempDir;

const CURRENT: &str = "kubelet-client-current.pem";
const DATED: &str = "kubelet-client-2026-01-01-00-00-00.pem";
const BEFORE: &str = "kubelet-client-2025-01-01-00-00-00.pem";
const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const NODE: &str = "/O=system:nodes/CN=system:node:worker";
const HOUR: Duration = Duration::from_secs(3600);

/// One case: the contents of a certificate directory. `usable` is true if `run` uses a pair of the directory until its
/// rotation point, instead of replacing the pair at once.
struct Sibling {
    what: &'static str,
    usable: bool,
    put: fn(&Path),
}

const SIBLINGS: &[Sibling] = &[
    of("as kubelet writes it", true, |pki| in_use(pki, &both(&pair(P256, NODE)))),
    of("PKCS#8 labelled EC PRIVATE KEY", true, |pki| {
        let (certificate, key) = pair(P256, NODE);
        in_use(pki, &[certificate, relabel(&key, "PRIVATE KEY", "EC PRIVATE KEY")].concat());
    }),
    of("PKCS#8 labelled RSA PRIVATE KEY", true, |pki| {
        let (certificate, key) = pair("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", NODE);
        in_use(pki, &[certificate, relabel(&key, "PRIVATE KEY", "RSA PRIVATE KEY")].concat());
    }),
    of("PKCS#1 labelled PRIVATE KEY", true, |pki| {
        let (certificate, key) = pair("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", NODE);
        let pkcs1 = convert("rsa -traditional", &key);
        in_use(pki, &[certificate, relabel(&pkcs1, "RSA PRIVATE KEY", "PRIVATE KEY")].concat());
    }),
    of("SEC 1 without the public key", true, |pki| {
        let (certificate, key) = pair(P256, NODE);
        in_use(pki, &[certificate, convert("ec -no_public", &key)].concat());
    }),
    of("SEC 1 with a compressed point", true, |pki| {
        let (certificate, key) = pair(P256, NODE);
        in_use(pki, &[certificate, convert("ec -conv_form compressed", &key)].concat());
    }),
    of("headers in a block", true, |pki| {
        let pem = both(&pair(P256, NODE));
        in_use(pki, &pem.replacen("-----\n", "-----\nfriendlyName: node\nlocalKeyID: 01\n\n", 1));
    }),
    of("half a block after the pair", true, |pki| {
        let pem = both(&pair(P256, NODE));
        in_use(pki, &[&pem, &pem[..pem.len() / 4]].concat());
    }),
    of("a block that is no base64 after the pair", true, |pki| {
        let pem = both(&pair(P256, NODE));
        in_use(pki, &[&pem, "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"].concat());
    }),
    of("a key of RSA 1024", false, |pki| {
        in_use(pki, &both(&pair("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", NODE)))
    }),
    // Five primes, since generating a key with two takes half a minute.
    of("a key of RSA 8192", false, |pki| {
        in_use(pki, &both(&pair("-algorithm RSA -pkeyopt rsa_keygen_bits:8192 -pkeyopt rsa_keygen_primes:5", NODE)));
    }),
    of("a key on P-224", false, |pki| {
        in_use(pki, &both(&pair("-algorithm EC -pkeyopt ec_paramgen_curve:P-224", NODE)))
    }),
    of("a key on P-521", false, |pki| {
        in_use(pki, &both(&pair("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", NODE)))
    }),
    of("DER", false, |pki| in_use_of(pki, &openssl_binary("x509 -outform DER", &pair(P256, NODE).0))),
    of("an empty file", false, |pki| in_use(pki, "")),
    of("half a file", false, |pki| {
        let pem = both(&pair(P256, NODE));
        in_use(pki, &pem[..pem.len() / 2]);
    }),
    of("two boundaries on one line", false, |pki| {
        let (certificate, key) = pair(P256, NODE);
        in_use(pki, &[certificate.trim_end(), &key].concat());
    }),
    of("expired", false, |pki| in_use(pki, &Ca::new().node(HOUR * 2, HOUR).to_pem())),
    of("another node's", false, |pki| in_use(pki, &both(&pair(P256, "/O=system:nodes/CN=system:node:other")))),
    of("a dangling link", false, |pki| symlink("gone.pem", pki.join(CURRENT)).unwrap()),
    of("a dangling link, and the pair before", true, |pki| {
        write(&pki.join(BEFORE), both(&pair(P256, NODE)).as_bytes());
        symlink("/nonexistent/gone.pem", pki.join(CURRENT)).unwrap();
    }),
    of("a directory in the way", false, |pki| fs::create_dir(pki.join(CURRENT)).unwrap()),
    of("a regular file in the way, of a kind of its own", false, |pki| {
        write(&pki.join(CURRENT), both(&pair("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", NODE)).as_bytes());
    }),
    of("a pair that others can read", true, |pki| {
        in_use(pki, &both(&pair(P256, NODE)));
        fs::set_permissions(pki.join(DATED), Permissions::from_mode(0o644)).unwrap();
    }),
    of("a pair that others can write to", false, |pki| {
        in_use(pki, &both(&pair(P256, NODE)));
        fs::set_permissions(pki.join(DATED), Permissions::from_mode(0o666)).unwrap();
    }),
    of("an unreadable pair, and the pair before", false, |pki| {
        write(&pki.join(BEFORE), both(&pair(P256, NODE)).as_bytes());
        in_use(pki, "a key of a kind that only others know");
    }),
    of("an unreadable record", true, |pki| {
        in_use(pki, &both(&pair(P256, NODE)));
        write(&pki.join("kubelet-client-pending.json"), b"{");
    }),
];

const fn of(what: &'static str, usable: bool, put: fn(&Path)) -> Sibling {
    Sibling { what, usable, put }
}

/// Generates a key (PKCS#8 PEM) with the options `kind` of `openssl genpkey`, and a self-signed certificate (PEM) for
/// the key. Returns the certificate first.
fn pair(kind: &str, subject: &str) -> (String, String) {
    let key = openssl(&format!("genpkey {kind}"), "");
    (certificate(&key, subject), key)
}

fn certificate(key: &str, subject: &str) -> String {
    openssl(&format!("req -new -x509 -key /dev/stdin -subj {subject} -days 2"), key)
}

fn both((certificate, key): &(String, String)) -> String {
    [certificate.as_str(), key].concat()
}

fn convert(line: &str, pem: &str) -> String {
    openssl(line, pem)
}

fn relabel(pem: &str, from: &str, to: &str) -> String {
    pem.replace(&format!("BEGIN {from}-"), &format!("BEGIN {to}-"))
        .replace(&format!("END {from}-"), &format!("END {to}-"))
}

fn write(path: &Path, contents: &[u8]) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn in_use(pki: &Path, pem: &str) {
    in_use_of(pki, pem.as_bytes());
}

fn in_use_of(pki: &Path, contents: &[u8]) {
    write(&pki.join(DATED), contents);
    symlink(fs::canonicalize(pki).unwrap().join(DATED), pki.join(CURRENT)).unwrap();
}

/// The parts of a directory entry that must not change.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    contents: Vec<u8>,
}

/// The entries of a directory by name. The contents of a link are its target.
type Entries = BTreeMap<String, Entry>;

fn entries(pki: &Path) -> Entries {
    let entry = |path: &Path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        let contents = match metadata.file_type() {
            kind if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
            kind if kind.is_file() => fs::read(path).unwrap(),
            _ => Vec::new(),
        };
        Entry { mode: metadata.mode(), owner: (metadata.uid(), metadata.gid()), contents }
    };
    let paths = fs::read_dir(pki).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), entry(&path))).collect()
}

/// True if the current pair is for this node, and the development signer issued it. Such a pair is newer than every
/// pair that the test has prepared.
fn holds_a_newer_pair(pki: &Path) -> bool {
    let Ok(Ok(pair)) = fs::read(pki.join(CURRENT)).map(|pem| Credential::from_pem(&pem)) else { return false };
    pair.chain().certificate().common_name() == "system:node:worker" && !pair.chain().issuer().contains("system:node")
}

/// Checks the directory after `run`, which may replace an unusable pair, and must keep everything else.
fn is_no_worse(pki: &Path, before: &Entries, usable: bool) -> Result<(), String> {
    let now = entries(pki);
    let changed: Vec<&str> =
        before.iter().filter(|(name, entry)| now.get(*name) != Some(*entry)).map(|(name, _)| name.as_str()).collect();
    let is_replaced = changed.iter().all(|name| *name == CURRENT || name.ends_with("-pending.json"));
    let was_vacant = before.get(CURRENT).is_some_and(|it| it.contents.ends_with(b"gone.pem"));
    match usable {
        true if changed.is_empty() || was_vacant && changed == [CURRENT] => Ok(()),
        false if is_replaced && holds_a_newer_pair(pki) => keeps_contents(pki, before),
        _ => Err(format!("{changed:?} changed: {:?}", now.keys().collect::<Vec<_>>())),
    }
}

/// Checks that every regular file and directory still exists, perhaps under another name, since `run` renames an entry
/// that is in the way of a link.
fn keeps_contents(pki: &Path, before: &Entries) -> Result<(), String> {
    let now = entries(pki);
    let is_link = |entry: &Entry| entry.mode & 0o170_000 == 0o120_000;
    let lost = before.iter().find(|(_, entry)| !is_link(entry) && !now.values().any(|it| it == *entry));
    lost.map_or(Ok(()), |(name, _)| Err(format!("{name} is lost")))
}

/// Creates a node's directory `name`, and fills the certificate directory in it as `sibling` describes.
fn prepared(sibling: &Sibling, under: &Path, name: &str) -> std::path::PathBuf {
    let root = under.join(name);
    fs::create_dir_all(root.join("worker/pki")).unwrap();
    (sibling.put)(&root.join("worker/pki"));
    root
}

/// Runs `status`, `verify` and `run` on directories that are filled as `sibling` describes. Returns a line for each
/// command that failed or made its directory worse.
fn faults(sibling: &Sibling, under: &Path, signer: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |what: &str, result: Result<(), String>| {
        faults.extend(result.err().map(|why| format!("{}, {what}: {why}", sibling.what)));
    };
    let root = prepared(sibling, under, "looked-at");
    let pki = root.join("worker/pki");
    let before = entries(&pki);
    let unchanged = |stderr: String| match entries(&pki) == before {
        true => Ok(()),
        false => Err(format!("{:?} became {:?}: {stderr}", before.keys(), entries(&pki).keys())),
    };
    for command in ["status", "verify"] {
        let output = perennial(&root, &[command, "--cert-dir", "worker/pki"]);
        check(command, unchanged(output.stderr));
    }
    fs::write(root.join("worker/kubeconfig"), "clusters: [").unwrap();
    let output = perennial(&root, &run_arguments(&["--once"]));
    let refused = if output.code == Some(2) { Ok(()) } else { Err(format!("{output:?}")) };
    check("run with a bad kubeconfig", refused.and_then(|()| unchanged(output.stderr)));

    fs::remove_file(root.join("worker/kubeconfig")).unwrap();
    symlink(signer, root.join("signer")).unwrap();
    let mut run = start(&root, &run_arguments(&["--json", "--rotate-certificates=false"]));
    run.event("disabled", 1);
    run.signal(Signal::TERM);
    let output = run.end();
    let ended = if output.code == Some(0) { Ok(()) } else { Err(format!("{output:?}")) };
    check("run without rotation", ended.and_then(|()| unchanged(output.stderr)));

    let output = perennial(&root, &run_arguments(&["--once"]));
    let done = if output.code == Some(0) { Ok(()) } else { Err(format!("{output:?}")) };
    check("run", done.and_then(|()| is_no_worse(&pki, &before, sibling.usable)));
    faults
}

#[test]
fn run_status_and_verify_lose_no_pair_and_replace_only_unusable_ones() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let signer = fs::canonicalize(path.join("signer")).unwrap();
    // In parallel, since each start waits some seconds to see whether an unreadable file is still being written.
    let faults: Vec<String> = thread::scope(|scope| {
        let each = SIBLINGS.iter().enumerate().map(|(number, sibling)| {
            let (under, signer) = (path.join(number.to_string()), signer.as_path());
            scope.spawn(move || faults(sibling, &under, signer))
        });
        let running: Vec<_> = each.collect();
        running.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Another program writes a pair while perennial starts; perennial waits for the pair and uses it.
#[test]
fn start_waits_for_pair_being_written() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let pki = path.join("worker/pki");
    fs::create_dir_all(&pki).unwrap();
    let pem = both(&pair(P256, NODE));
    in_use(&pki, &pem[..pem.len() / 2]);
    let run = start(path, &run_arguments(&["--once"]));
    // After the first read, and before the five seconds end for which perennial reads again.
    thread::sleep(Duration::from_secs(2));
    fs::write(pki.join(DATED), &pem).unwrap();
    let before = entries(&pki);
    let output = run.end();
    assert_eq!(output.code, Some(0), "{output:?}");
    let mut now = entries(&pki);
    now.retain(|name, _| !name.ends_with(".lock") && !name.contains("pending"));
    let mut before = before;
    before.retain(|name, _| !name.ends_with(".lock"));
    assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{output:?}");
    assert!(now == before, "{output:?}");
}
