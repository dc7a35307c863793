//! The initial directories of the exploration.

use perennial_tests::disk::{Disk, NODE, Start, pair};

/// An initial directory, and the contents in it that must survive.
pub(crate) struct Found {
    pub(crate) what: &'static str,
    pub(crate) disk: Disk,
    pub(crate) keepsakes: Vec<Vec<u8>>,
}

/// The number of pairs in the initial directories, numbered from 0. The pairs that acts write are numbered from here
/// on.
pub(crate) const OLD: usize = 4;
/// The number of the expired pair. It follows the numbers of the pairs in the initial directories, and of the three
/// pairs that acts write.
pub(crate) const EXPIRED: usize = OLD + 3;
const CURRENT: &str = "kubelet-client-current.pem";
pub(crate) const PENDING: &str = "kubelet-client-pending.json";
pub(crate) const UPDATED: &str = "kubelet-client-updated.pem";
const NAMES: [&str; OLD] = [
    "kubelet-client-2025-01-01-00-00-00-000.pem",
    "kubelet-client-2025-02-01-00-00-00-000.pem",
    "kubelet-client-2025-03-01-00-00-00-000.pem",
    "kubelet-client-2025-04-01-00-00-00-000.pem",
];

/// True for a file of the prefix `kubelet-client-x`, which is not the tested prefix but begins with it.
pub(crate) fn is_anothers(name: &str) -> bool {
    name.starts_with("kubelet-client-x-")
}

/// The contents of a file that stands for a pair that Go can load and perennial cannot.
const GO_ONLY: &[u8] = b"a key of a kind that perennial does not know";

/// True if Go could load a pair from this file, alone or together with the other file of a `.crt` and `.key` pair.
pub(crate) fn go_loads(name: &str, bytes: &[u8], pems: &[Vec<u8>]) -> bool {
    let is_of_two = name.ends_with(".crt") || name.ends_with(".key");
    is_of_two || bytes == GO_ONLY || pems.iter().any(|pem| pem == bytes)
}

/// The initial directories with pairs. `pem` has the pairs as PEM text, oldest first.
pub(crate) fn starts(pem: &[Vec<u8>]) -> Vec<Found> {
    let dated =
        |which: &[usize]| which.iter().fold(Disk::default(), |disk, at| disk.with(NAMES[*at], Start::File(&pem[*at])));
    let torn = &pem[1][..pem[1].len() / 2];
    let one = || dated(&[0]);
    let kubelets = "kubelet-client-2025-01-01-01-00-00.pem";
    let absolute = format!("/pki/{kubelets}");
    let text = String::from_utf8(pem[0].clone()).unwrap();
    let (chain, key) = text.split_at(text.find("-----BEGIN PRIVATE KEY").unwrap());
    let expired = || Disk::default().with(NAMES[0], Start::File(&pem[EXPIRED]));
    let other = pair(&format!("{NODE}0"), 0).to_pem();
    // Every directory has files of other programs.
    let found = |what, disk: Disk, keepsakes: &[&[u8]]| {
        let disk = disk
            .with("kubelet-client-2025-05-01-00-00-00-000.pem.orig", Start::File(b"notes"))
            .with("kubelet-client-x-2025-01-01-00-00-00-000.pem", Start::File(other.as_bytes()));
        let others = [&b"notes"[..], other.as_bytes()];
        Found { what, disk, keepsakes: keepsakes.iter().chain(&others).map(|bytes| bytes.to_vec()).collect() }
    };
    vec![
        found("nothing", Disk::default(), &[]),
        found("one pair", one().with(CURRENT, Start::Link(NAMES[0])), &[]),
        found("two pairs", dated(&[0, 1]).with(CURRENT, Start::Link(NAMES[1])), &[]),
        found("pairs to prune", dated(&[0, 1, 2, 3]).with(CURRENT, Start::Link(NAMES[3])), &[]),
        found(
            "an update cut short",
            dated(&[0, 1]).with(CURRENT, Start::Link(NAMES[0])).with(UPDATED, Start::Link(NAMES[1])),
            &[],
        ),
        found("the first update cut short", one().with(UPDATED, Start::Link(NAMES[0])), &[]),
        found(
            "a file for the link of an update",
            one().with(CURRENT, Start::Link(NAMES[0])).with(UPDATED, Start::File(&pem[1])),
            &[&pem[1]],
        ),
        found("only that", Disk::default().with(UPDATED, Start::File(&pem[1])), &[&pem[1]]),
        found("a file for the link", Disk::default().with(CURRENT, Start::File(&pem[0])), &[&pem[0]]),
        found(
            "a kubelet's",
            Disk::default().with(kubelets, Start::File(&pem[0])).with(CURRENT, Start::Link(&absolute)),
            &[],
        ),
        found(
            "a damaged pair and the one before",
            one().with(NAMES[1], Start::File(torn)).with(CURRENT, Start::Link(NAMES[1])),
            &[torn],
        ),
        found(
            "a pair that only others read, and the one before",
            one().with(NAMES[1], Start::File(GO_ONLY)).with(CURRENT, Start::Link(NAMES[1])),
            &[GO_ONLY],
        ),
        found("a file that only others read", one().with(CURRENT, Start::File(GO_ONLY)), &[GO_ONLY]),
        found(
            "an update to what only others read, cut short",
            dated(&[0])
                .with(CURRENT, Start::Link(NAMES[0]))
                .with(NAMES[1], Start::File(GO_ONLY))
                .with(UPDATED, Start::Link(NAMES[1])),
            &[GO_ONLY],
        ),
        found(
            "a link to nowhere, and what only others read",
            one().with(NAMES[1], Start::File(GO_ONLY)).with(CURRENT, Start::Link("gone.pem")),
            &[GO_ONLY],
        ),
        found(
            "another node's pair",
            one().with(NAMES[1], Start::File(other.as_bytes())).with(CURRENT, Start::Link(NAMES[1])),
            &[],
        ),
        found(
            "a pair that has expired, and the update after it cut short",
            expired()
                .with(NAMES[1], Start::File(&pem[1]))
                .with(CURRENT, Start::Link(NAMES[0]))
                .with(UPDATED, Start::Link(NAMES[1])),
            &[],
        ),
        found(
            "a pair that has expired, and one that has not",
            expired().with(NAMES[1], Start::File(&pem[1])).with(CURRENT, Start::Link(NAMES[0])),
            &[],
        ),
        found(
            "a file that has expired, and a pair that has not",
            one().with(CURRENT, Start::File(&pem[EXPIRED])),
            &[&pem[EXPIRED]],
        ),
        found(
            "a link to what is not ours",
            one().with("ca.crt", Start::File(chain.as_bytes())).with(CURRENT, Start::Link("ca.crt")),
            &[chain.as_bytes()],
        ),
        found("a damaged file for the link", one().with(CURRENT, Start::File(torn)), &[torn]),
        found("a directory for the link", one().with(CURRENT, Start::Folder), &[]),
        found("a link to nowhere", one().with(CURRENT, Start::Link("gone.pem")), &[]),
        found("a loop", one().with(CURRENT, Start::Link(CURRENT)), &[]),
        found("no link", dated(&[0, 1]), &[]),
        found("another program's file, not synced", Disk::default().with(NAMES[0], Start::Unsynced(&pem[0])), &[]),
        found(
            "what crashes left",
            one()
                .with(CURRENT, Start::Link(NAMES[0]))
                .with(&format!("{}.new", NAMES[1]), Start::File(torn))
                .with(&format!("{}.link", NAMES[1]), Start::Link(NAMES[1]))
                .with("kubelet-client-pending.json.new", Start::File(b"{"))
                .with("kubelet-client-x-2025-01-01-00-00-00-000.pem.new", Start::File(b"another's")),
            &[b"another's"],
        ),
        found(
            "fixed names",
            Disk::default()
                .with("kubelet-client.crt", Start::File(chain.as_bytes()))
                .with("kubelet-client.key", Start::File(key.as_bytes())),
            &[chain.as_bytes(), key.as_bytes()],
        ),
        found(
            "fixed names and damage",
            Disk::default()
                .with("kubelet-client.crt", Start::File(chain.as_bytes()))
                .with("kubelet-client.key", Start::File(key.as_bytes()))
                .with(CURRENT, Start::File(torn)),
            &[chain.as_bytes(), key.as_bytes(), torn],
        ),
    ]
}

/// The initial directories with a pending record, or with the remains of one.
pub(crate) fn with_records(pem: &[Vec<u8>]) -> Vec<Found> {
    let (whole, half) = (&br#"{ "number": 9 }"#[..], &br#"{ "num"#[..]);
    let (new, bad) = (format!("{PENDING}.new"), format!("{PENDING}.bad"));
    let found = |what, disk: Disk| Found { what, disk, keepsakes: Vec::new() };
    let pair = || Disk::default().with(NAMES[0], Start::File(&pem[0])).with(CURRENT, Start::Link(NAMES[0]));
    vec![
        found("no record", pair()),
        found("a record and no pair", Disk::default().with(PENDING, Start::File(whole))),
        found("a record", pair().with(PENDING, Start::File(whole))),
        found("half a record to come", pair().with(PENDING, Start::File(whole)).with(&new, Start::File(half))),
        found("a damaged record", pair().with(PENDING, Start::File(half)).with(&bad, Start::File(b"before"))),
    ]
}
