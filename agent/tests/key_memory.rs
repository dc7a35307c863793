//! A replaced key leaves no copy in the memory of `perennial run`, where a core dump would show it.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::support::{Signer, run_arguments, start, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial_pki::KeyPair;
use rustix::process::Signal;
use tempfile::TempDir;

/// The order of the P-256 group, big endian.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// Offset of the scalar in a P-256 key in PKCS#8, in bytes.
const SCALAR_AT: usize = 36;

/// Byte patterns of one private key, to search memory for. Libraries hold or write a key in several forms. Each form
/// has one or two patterns here, each with the name of the form.
struct Key(Vec<(&'static str, Vec<u8>)>);

impl Key {
    /// Reads the key of the current pair, and derives all forms of the key.
    fn in_use(directory: &Path) -> Self {
        let pem = fs::read_to_string(directory.join("worker/pki/kubelet-client-current.pem")).unwrap();
        let (_, key) = pem.split_once("-----BEGIN PRIVATE KEY-----\n").unwrap();
        let (key, _) = key.split_once("-----END").unwrap();
        let base64: String = key.lines().collect();
        let der = STANDARD.decode(&base64).unwrap();
        let scalar: [u8; 32] = der[SCALAR_AT..SCALAR_AT + 32].try_into().unwrap();
        let reversed = |mut bytes: [u8; 32]| {
            bytes.reverse();
            bytes.to_vec()
        };
        Self(vec![
            ("big endian", scalar[..16].to_vec()),
            ("end, big endian", scalar[16..].to_vec()),
            ("little endian", reversed(scalar)[..16].to_vec()),
            ("end, little endian", reversed(scalar)[16..].to_vec()),
            ("Montgomery form", reversed(montgomery(scalar))[..16].to_vec()),
            // The scalar begins in the middle of the first line.
            ("base64", base64.as_bytes()[52..64].to_vec()),
            ("base64, second line", base64.as_bytes()[66..90].to_vec()),
        ])
    }
}

/// Computes `scalar` · 2²⁵⁶ modulo [`ORDER`]: Montgomery form, in which *ring* keeps private keys.
fn montgomery(scalar: [u8; 32]) -> [u8; 32] {
    (0..256).fold(scalar, |value, _| {
        let mut doubled = value;
        let carry = doubled.iter_mut().rev().fold(0, |carry, byte| {
            let sum = u16::from(*byte) * 2 + carry;
            *byte = sum.to_le_bytes()[0];
            sum >> 8
        });
        if carry == 0 && doubled < ORDER {
            return doubled;
        }
        let mut reduced = doubled;
        reduced.iter_mut().zip(ORDER).rev().fold(false, |borrow, (byte, order)| {
            let (less, one) = byte.overflowing_sub(order);
            let (less, two) = less.overflowing_sub(u8::from(borrow));
            *byte = less;
            one || two
        });
        reduced
    })
}

/// Returns the names of the forms of `key` that are found in the writable memory of the process with this id.
fn forms_in_memory(process: u32, key: &Key) -> BTreeSet<&'static str> {
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut found = BTreeSet::new();
    let mut read = 0;
    for map in maps.lines().filter(|map| map.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw"))) {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // The range may have been unmapped since.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        read += bytes.len();
        let shows = |form: &[u8]| {
            // Skips pages of zeros, which are most of the memory.
            let pages = bytes.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
            pages.into_iter().any(|(page, _)| {
                let from = page * 4096;
                let to = bytes.len().min(from + 4096 + form.len() - 1);
                bytes[from..to].windows(form.len()).any(|window| window == form)
            })
        };
        found.extend(key.0.iter().filter(|(_, form)| shows(form)).map(|(name, _)| *name));
    }
    assert!(read > 1 << 16, "the memory of the process cannot be read");
    found
}

fn replaced_keys_leave_no_copy(runtime: &str) {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let mut run = start(path, &run_arguments(&["--json", "--runtime", runtime]));
    run.event("issued", 1);
    let mut keys = vec![Key::in_use(path)];
    // Finding the form of the crypto provider here, where a signing key exists, shows that the pattern is right.
    let pem = fs::read(path.join("worker/pki/kubelet-client-current.pem")).unwrap();
    let signing = KeyPair::from_pem(&pem).unwrap().signing_key();
    assert!(forms_in_memory(std::process::id(), &keys[0]).contains("Montgomery form"), "{signing:?}");
    for rotation in 1..=3 {
        run.signal(Signal::USR1);
        run.event("rotated", rotation);
        let (current, old) = (Key::in_use(path), &keys);
        // Finding the current key shows that the scan works.
        let shown = forms_in_memory(run.id(), &current);
        assert!(shown.contains("big endian") && shown.contains("end, big endian"), "{runtime}: {shown:?}");
        // Retried: the thread that removes the oldest pair may be reading the one before.
        until(&format!("end of the old keys in memory ({runtime})"), || {
            old.iter().all(|key| forms_in_memory(run.id(), key).is_empty()).then_some(())
        });
        keys.push(current);
    }
}

#[test]
fn replaced_key_leaves_no_copy_in_memory_on_threads() {
    replaced_keys_leave_no_copy("std");
}

#[test]
fn replaced_key_leaves_no_copy_in_memory_on_smol() {
    replaced_keys_leave_no_copy("smol");
}
