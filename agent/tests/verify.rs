//! `perennial verify`: whether kubelet and perennial could start from a directory, which stays unchanged.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use crate::support::{Ca, Output, as_nobody, files, perennial, put_in_use};
use perennial_dev::Random;
use perennial_rotation::clock;
use perennial_tests::openssl::openssl;
use serde_json::Value;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);
const CURRENT: &str = "kubelet-client-current.pem";
const DATED: &str = "kubelet-client-2026-01-01-00-00-00-000.pem";

/// Prepares a directory and runs `verify` on it. Returns the text output and the JSON.
fn verify(prepare: impl FnOnce(&Path, &mut Ca)) -> (Output, Value) {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    fs::create_dir(&pki).unwrap();
    prepare(&pki, &mut Ca::new());
    let before = files(directory.path());
    let sentences = perennial(directory.path(), &["verify", "--cert-dir", "pki"]);
    let json = perennial(directory.path(), &["verify", "--cert-dir", "pki", "--json"]);
    assert_eq!(files(directory.path()), before);
    assert_eq!((json.code, &json.stderr), (sentences.code, &sentences.stderr));
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["good"], sentences.code == Some(0), "{value}");
    assert!(!(sentences.stdout.clone() + &json.stdout + &json.stderr).contains("PRIVATE KEY"));
    (sentences, value)
}

/// Prepares a directory and runs `verify` on it. Returns whether kubelet could start with the client certificate,
/// whether perennial could, and all output.
fn client(prepare: impl FnOnce(&Path, &mut Ca)) -> (bool, bool, String) {
    let (sentences, value) = verify(prepare);
    let good = |who: &str| value["certificates"]["kubelet-client"][who]["good"].as_bool().unwrap();
    assert_eq!(sentences.code, Some(i32::from(!(good("kubelet") && good("perennial")))));
    (good("kubelet"), good("perennial"), sentences.stdout + &sentences.stderr)
}

fn put(path: &Path, contents: impl AsRef<[u8]>) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn good(pki: &Path, ca: &mut Ca) {
    put_in_use(pki, ca.node(Duration::ZERO, HOUR).to_pem().as_bytes());
    fs::set_permissions(pki.join(DATED), Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn verify_accepts_good_pair_for_kubelet_and_perennial() {
    let (sentences, value) = verify(good);
    assert_eq!(sentences.code, Some(0), "{sentences:?}");
    assert_eq!(sentences.stdout.matches("could start, with pki/kubelet-client-current.pem").count(), 2);
    assert!(sentences.stderr.is_empty() && !sentences.stdout.contains("note"), "{sentences:?}");
    let kubelet = &value["certificates"]["kubelet-client"]["kubelet"];
    assert_eq!(kubelet["file"], format!("pki/{CURRENT}"));
    assert!(kubelet["serial"].is_string() && kubelet["not_after"].is_string(), "{value}");
    assert_eq!(value["certificates"].as_object().unwrap().len(), 1, "there is no serving certificate");
}

#[test]
fn verify_accepts_files_in_kubelets_layout() {
    let (kubelet, own, output) = client(|pki, ca| {
        let dated = pki.join("kubelet-client-2026-01-01-02-00-00.pem");
        put(&dated, ca.node(Duration::ZERO, HOUR).to_pem().as_bytes());
        symlink(fs::canonicalize(&dated).unwrap(), pki.join(CURRENT)).unwrap();
    });
    assert!(kubelet && own, "{output}");
    let (kubelet, own, output) = client(|pki, ca| {
        let credential = ca.node(Duration::ZERO, HOUR);
        put(&pki.join("kubelet-client.crt"), credential.chain().pem());
        put(&pki.join("kubelet-client.key"), credential.key().to_pem().as_bytes());
    });
    assert!(kubelet && own && output.contains("kubelet-client.crt"), "{output}");
}

#[test]
fn verify_reports_missing_certificate() {
    let dangling = |pki: &Path, _: &mut Ca| symlink("gone.pem", pki.join(CURRENT)).unwrap();
    for prepare in [|_: &Path, _: &mut Ca| {}, dangling] {
        let (kubelet, own, output) = client(prepare);
        assert!(!kubelet && !own && output.contains("there is no certificate"), "{output}");
        assert!(output.contains("bootstrap kubeconfig"), "{output}");
    }
}

/// Go accepts some pairs that perennial rejects, and rejects some pairs that perennial accepts. If perennial does not
/// support the key or the size of the file, `verify` does not decide whether kubelet could start.
#[test]
fn verify_decides_by_rules_of_go_whether_kubelet_could_start() {
    let subject = "req -new -x509 -key /dev/stdin -subj /O=system:nodes/CN=system:node:worker -days 2";
    let pair = |kind: &str| {
        let key = openssl(&format!("genpkey {kind}"), "");
        (openssl(subject, &key), key)
    };
    let (certificate, key) = pair("-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    let bare = certificate.trim_end();
    let (p521_certificate, p521_key) = pair("-algorithm EC -pkeyopt ec_paramgen_curve:P-521");
    let (rsa_certificate, rsa_key) = pair("-algorithm RSA -pkeyopt rsa_keygen_bits:1024");
    let no_public = openssl("ec -no_public", &key);
    let negative = openssl(&format!("{subject} -set_serial -5"), &key);
    for (what, pem, kubelet, perennial, words) in [
        ("no public key", format!("{certificate}{no_public}"), Some(true), true, "could start"),
        (
            "headers",
            format!("{certificate}{}", key.replacen("-----\n", "-----\nA: b\n\n", 1)),
            Some(true),
            true,
            "could",
        ),
        (
            "half a block",
            format!("{certificate}{key}{}", &bare[..99]),
            Some(true),
            true,
            "damaged, but using the rest of the file",
        ),
        ("glued issuers", format!("{certificate}{bare}{certificate}{key}"), Some(true), false, "holds a PEM boundary"),
        ("glued", format!("{bare}{key}"), Some(false), false, "Go finds no CERTIFICATE block"),
        (
            "a byte order mark",
            format!("\u{feff}{certificate}{key}"),
            Some(false),
            true,
            "Go finds no CERTIFICATE block",
        ),
        ("a negative serial", format!("{negative}{key}"), Some(false), true, "its serial number is negative"),
        (
            "P-521",
            format!("{p521_certificate}{p521_key}"),
            None,
            false,
            "ECDSA keys on P-521 are not supported by perennial",
        ),
        (
            "RSA",
            format!("{rsa_certificate}{rsa_key}"),
            None,
            false,
            "RSA keys of 1024 bits are not supported by perennial",
        ),
        ("a large file", format!("{certificate}{key}{}", " ".repeat(1 << 20)), None, false, "longer than 1 MiB"),
    ] {
        let (sentences, value) = verify(|pki, _| {
            put_in_use(pki, pem.as_bytes());
            fs::set_permissions(pki.join(DATED), Permissions::from_mode(0o600)).unwrap();
        });
        let good = |who: &str| value["certificates"]["kubelet-client"][who]["good"].as_bool();
        let output = sentences.stdout + &sentences.stderr;
        assert_eq!((good("kubelet"), good("perennial")), (kubelet, Some(perennial)), "{what}: {output}");
        assert!(output.contains(words), "{what}: {output}");
        assert_eq!(output.contains("kubelet may"), kubelet.is_none(), "{what}: {output}");
    }

    // `status` does not report such a key as damaged.
    let directory = TempDir::new().unwrap();
    put_in_use(&directory.path().join("pki"), format!("{p521_certificate}{p521_key}").as_bytes());
    let status = perennial(directory.path(), &["status", "--cert-dir", "pki", "--json"]);
    let value: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((status.code, &value["state"]), (Some(1), &"unsupported".into()), "{status:?}");
}

/// Unlike perennial, kubelet does not fall back to an earlier dated pair if the current one is damaged.
#[test]
fn verify_of_damaged_pair_beside_a_good_one_fails_for_kubelet_only() {
    let cut: fn(&[u8]) -> Vec<u8> = |pem| pem[..pem.len() / 2].to_vec();
    let mixed: fn(&[u8]) -> Vec<u8> = |pem| {
        let text = str::from_utf8(pem).unwrap();
        let chain = text.split("-----BEGIN PRIVATE KEY").next().unwrap();
        [chain, &Ca::new().node(Duration::ZERO, HOUR).key().to_pem()].concat().into_bytes()
    };
    for (damage, words) in [(cut, "cut short"), (mixed, "another private key"), (|_| Vec::new(), "no certificate")] {
        let damaged = |pki: &Path, ca: &mut Ca| {
            good(pki, ca);
            let pem = fs::read(pki.join(CURRENT)).unwrap();
            put(&pki.join(CURRENT), damage(&pem));
        };
        let (kubelet, own, output) = client(damaged);
        assert!(!kubelet && !own && output.contains(words) && output.contains("to do"), "{output}");
        let (kubelet, own, output) = client(|pki, ca| {
            damaged(pki, ca);
            let before = ca.node(Duration::ZERO, HOUR / 2);
            put(&pki.join("kubelet-client-2025-01-01-00-00-00-000.pem"), before.to_pem().as_bytes());
        });
        assert!(!kubelet && own, "{output}");
        assert!(
            output.contains("replaces this one") && output.contains("kubelet-client (kubelet): could not start"),
            "{output}"
        );
    }
}

/// From the field, a regular file in the place of the link to the current pair:
/// <https://github.com/kubernetes/website/pull/28312>
#[test]
fn verify_flags_regular_file_instead_of_link() {
    let file = |name: &'static str| {
        move |pki: &Path, ca: &mut Ca| {
            good(pki, ca);
            let pem = fs::read(pki.join(CURRENT)).unwrap();
            let _ = fs::remove_file(pki.join(name));
            put(&pki.join(name), pem);
        }
    };
    for name in [CURRENT, "kubelet-client-updated.pem"] {
        let (kubelet, own, output) = client(file(name));
        assert!(!kubelet && own, "{output}");
        assert!(output.contains("next certificate") && output.contains("is a regular file"), "{output}");
        assert!(output.contains(name) && output.contains("create a link"), "{output}");
    }
    // Without a dated pair, the file prevents the start as well.
    let (kubelet, own, output) = client(|pki, ca| {
        file("kubelet-client-updated.pem")(pki, ca);
        fs::remove_file(pki.join(DATED)).unwrap();
    });
    assert!(!kubelet && own && output.contains("could not start"), "{output}");
}

#[test]
fn verify_accepts_directory_of_interrupted_update() {
    let (kubelet, own, output) = client(|pki, ca| {
        good(pki, ca);
        fs::rename(pki.join(CURRENT), pki.join("kubelet-client-updated.pem")).unwrap();
    });
    assert!(kubelet && own && output.contains("kubelet-client-updated.pem"), "{output}");
}

#[test]
fn verify_flags_pipe_or_directory_or_link_cycle_as_current_pair() {
    let pipe = |pki: &Path, _: &mut Ca| {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let path = pki.join(CURRENT);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let folder = |pki: &Path, _: &mut Ca| fs::create_dir(pki.join(CURRENT)).unwrap();
    let circle = |pki: &Path, _: &mut Ca| symlink(CURRENT, pki.join(CURRENT)).unwrap();
    for prepare in [pipe, folder, circle] {
        let (kubelet, own, output) = client(prepare);
        assert!(!kubelet && !own && output.contains("cannot be read"), "{output}");
    }
}

#[test]
fn verify_flags_certificate_outside_its_validity() {
    let (kubelet, own, output) = client(|pki, ca| {
        put_in_use(pki, ca.node(HOUR * 2, HOUR).to_pem().as_bytes());
    });
    assert!(!kubelet && !own && output.contains("expired at") && output.contains("bootstrap kubeconfig"), "{output}");
    let (kubelet, own, output) = client(|pki, ca| {
        let (tomorrow, random) = (clock::now().unix.after(HOUR * 24), &mut Random::from_os().unwrap());
        let credential =
            ca.authority.client_credential("system:node:worker", &["system:nodes"], random, tomorrow, HOUR);
        put_in_use(pki, credential.unwrap().to_pem().as_bytes());
    });
    assert!(!kubelet && !own && output.contains("correct the clock"), "{output}");
}

#[test]
fn verify_notes_key_readable_by_others() {
    let (kubelet, own, output) = client(|pki, ca| {
        good(pki, ca);
        fs::set_permissions(pki.join(DATED), Permissions::from_mode(0o644)).unwrap();
    });
    assert!(kubelet && own && output.contains("note") && output.contains("chmod 600"), "{output}");
}

#[test]
fn verify_accepts_expired_and_refuses_damaged_serving_certificate() {
    const SERVING: &str = "kubelet-server-current.pem";
    let expired = |pki: &Path, ca: &mut Ca| {
        good(pki, ca);
        put(&pki.join("kubelet-server-2026-01-01-00-00-00-000.pem"), ca.node(HOUR * 2, HOUR).to_pem().as_bytes());
        symlink("kubelet-server-2026-01-01-00-00-00-000.pem", pki.join(SERVING)).unwrap();
    };
    let (sentences, value) = verify(expired);
    assert_eq!(sentences.code, Some(0), "{sentences:?}");
    assert!(value["certificates"]["kubelet-server"]["kubelet"]["good"].as_bool().unwrap(), "{value}");
    let (sentences, value) = verify(|pki, ca| {
        expired(pki, ca);
        put(&pki.join(SERVING), "-----BEGIN");
    });
    assert_eq!(sentences.code, Some(1), "{sentences:?}");
    let serving = &value["certificates"]["kubelet-server"];
    assert_eq!((&serving["kubelet"]["good"], &serving["perennial"]["good"]), (&false.into(), &true.into()));
    assert!(
        sentences.stdout.contains("note") && sentences.stderr.contains("kubelet-server (kubelet)"),
        "{sentences:?}"
    );
}

#[test]
fn verify_of_missing_directory_exits_with_code_2() {
    let directory = TempDir::new().unwrap();
    for arguments in [&["verify", "--cert-dir", "none"][..], &["verify"]] {
        assert_eq!(perennial(directory.path(), arguments).code, Some(2));
    }
}

/// Runs `verify` as an unprivileged user on a directory with a good pair, after `prepare` has changed the directory.
/// Expects exit code 1. Returns the text output.
fn by_nobody(prepare: impl FnOnce(&Path)) -> String {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    good(&pki, &mut Ca::new());
    prepare(&pki);
    let Output { code, stdout, .. } = as_nobody(directory.path(), &["verify", "--cert-dir", "pki"]);
    fs::set_permissions(&pki, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(code, Some(1), "{stdout}");
    stdout
}

#[test]
fn verify_flags_unreadable_pair() {
    let output = by_nobody(|pki| fs::set_permissions(pki.join(DATED), Permissions::from_mode(0o000)).unwrap());
    assert_eq!(output.matches("could not start").count(), 2, "{output}");
    assert!(output.to_lowercase().contains("permission denied") && output.contains("can read it"), "{output}");
}

#[test]
fn verify_flags_read_only_directory() {
    let output = by_nobody(|pki| fs::set_permissions(pki, Permissions::from_mode(0o555)).unwrap());
    assert!(output.contains("perennial   could not start: ") && output.contains("cannot be written to"), "{output}");
    assert!(output.contains("kubelet     could not put its next certificate in place"), "{output}");
}

#[test]
fn verify_flags_unusable_lock_file() {
    let folder: fn(&Path) = |lock| fs::create_dir(lock).unwrap();
    let link: fn(&Path) = |lock| symlink("elsewhere", lock).unwrap();
    for place in [folder, link] {
        let lock = ".kubelet-client.lock";
        let (kubelet, own, output) = client(|pki, ca| {
            good(pki, ca);
            place(&pki.join(lock));
            perennial_rotation::Directory::open(pki, "kubelet-client").unwrap_err();
        });
        assert!(kubelet && !own && output.contains(lock) && output.contains("remove it"), "{output}");
    }
    let output = by_nobody(|pki| {
        let lock = pki.join(".kubelet-client.lock");
        put(&lock, "");
        fs::set_permissions(lock, Permissions::from_mode(0o000)).unwrap();
    });
    assert!(output.contains("perennial   could not start: ") && output.contains(".kubelet-client.lock"), "{output}");
}

#[test]
fn verify_ignores_lock_held_by_run() {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("pki");
    good(&pki, &mut Ca::new());
    let _keeps = perennial_rotation::Directory::open(&pki, "kubelet-client").unwrap();
    assert_eq!(perennial(directory.path(), &["verify", "--cert-dir", "pki"]).code, Some(0));
}
