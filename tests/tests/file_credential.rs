//! `FileCredential`: another program replaces a pair in files. Tests which pair is in use at which time.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use perennial::{Now, Template, UnixTime, Validity};
use perennial_dev::Random;
use perennial_pki::{
    Chain, Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, Usage, certificate_request, interim,
    read_request, self_signed,
};
use perennial_rotation::tls::{ClientConfigs, Source, client_config, server_config};
use perennial_rotation::{FileCredential, NotYet, clock};
use perennial_tests::loopback::{BOUND, Runtime, new_authority, on_both};
use perennial_tests::replacement::{Files, Way, write_at_rest};
use perennial_tests::tls::{Stream, answer, connect, fingerprint, hex, server};
use rustls::SignatureScheme;

fn pair() -> Credential {
    interim(&Template::new("server").with_dns_names(["localhost"]), clock::now().unix).unwrap()
}

/// Makes a pair with this key, whose chain is a leaf followed by its CA.
fn with_ca(key: Arc<KeyPair>) -> Credential {
    let begin = clock::now().unix.before(Duration::from_secs(60));
    let validity = Validity::new(begin, begin.after(Duration::from_secs(3600))).unwrap();
    let ca_key = new_key();
    let ca = Credential::new(self_signed("CA", &ca_key, &[1], validity).unwrap(), ca_key).unwrap();
    let request = certificate_request(&Template::new("server"), &key).unwrap();
    let terms = Terms {
        serial: &[2],
        validity,
        key_usages: &[KeyUsage::DigitalSignature],
        extended_key_usages: &[Usage::ServerAuth],
    };
    let ca_pem = ca.chain().pem().to_owned();
    let leaf = Issuer::new(ca).unwrap().issue(&read_request(request.pem.as_bytes()).unwrap(), &terms).unwrap();
    let chain = Chain::from_pem([&leaf_pem(&leaf), ca_pem.as_str()].concat().as_bytes()).unwrap();
    Credential::new(chain, key).unwrap()
}

fn new_key() -> Arc<KeyPair> {
    Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap())
}

/// The leaf of a chain, without the CA that may follow.
fn leaf_pem(chain: &Chain) -> String {
    const END: &str = "-----END CERTIFICATE-----\n";
    let mut pem = chain.pem();
    pem.truncate(pem.find(END).unwrap() + END.len());
    pem
}

/// The order in which a program writes certificate, CA and key, and the files into which it writes them.
#[derive(Clone, Copy, Debug)]
enum Layout {
    CertificateKey,
    KeyCertificate,
    KeyChainBundle,
    ChainKeyBundle,
}

impl Layout {
    const ALL: [Self; 4] = [Self::CertificateKey, Self::KeyCertificate, Self::KeyChainBundle, Self::ChainKeyBundle];

    fn files(self, pair: &Credential) -> Files {
        let leaf = leaf_pem(pair.chain());
        let rest = pair.chain().pem()[leaf.len()..].to_owned();
        let (chain, key) = (vec![leaf.to_owned(), rest], vec![pair.key().to_pem().to_string()]);
        match self {
            Self::CertificateKey => vec![("tls.crt", chain), ("tls.key", key)],
            Self::KeyCertificate => vec![("tls.key", key), ("tls.crt", chain)],
            Self::KeyChainBundle => vec![("bundle.pem", [key, chain].concat())],
            Self::ChainKeyBundle => vec![("bundle.pem", [chain, key].concat())],
        }
    }

    fn open(self, directory: &Path) -> FileCredential {
        let files = match self {
            Self::CertificateKey | Self::KeyCertificate => {
                FileCredential::open(directory.join("tls.crt"), directory.join("tls.key"))
            }
            Self::KeyChainBundle | Self::ChainKeyBundle => FileCredential::open_bundle(directory.join("bundle.pem")),
        };
        files.unwrap().every(Duration::ZERO)
    }
}

/// The time `span` after `now`, on both clocks.
fn later(now: Now, span: Duration) -> Now {
    Now { instant: now.instant.after(span), unix: now.unix.after(span) }
}

/// Replaces the pair `old` by `new` in the way `way`, pausing for `pause` after each step. Checks after each step, and
/// during the pauses, that the pair in use is `old` or `new`, never a mixture.
fn replaced_without_mixture(layout: Layout, way: Way, pause: Duration, [old, new]: &[Credential; 2]) {
    const CHECK: Duration = Duration::from_millis(300);
    let directory = tempfile::tempdir().unwrap();
    way.replace(directory.path(), &layout.files(old));
    let files = layout.open(directory.path());
    let (mut rotations, mut watch) = files.watch();
    // No modification at a whole second, which could be a time rounded down.
    let mut now = clock::now();
    now.unix = UnixTime::from_millis(now.unix.as_millis() / 100 * 100 + 50);
    let mut seen = 0;
    let mut check = |now: Now| {
        watch.step(now).unwrap();
        let chain = files.credential().chain().pem().to_owned();
        let n = [old, new].iter().position(|pair| pair.chain().pem() == chain);
        let n = n.unwrap_or_else(|| panic!("neither the old nor the new chain:\n{chain}"));
        assert!(n >= seen, "the old pair has come back");
        seen = n;
        assert_eq!(files.last_error(), None);
        n == 1
    };
    for step in way.steps(directory.path(), &layout.files(new)) {
        step(now.unix);
        check(now);
        let end = later(now, pause);
        while now.instant < end.instant {
            now = later(now, CHECK.min(end.instant.since(now.instant)));
            check(now);
        }
    }
    // The last modification has to be a second ago.
    let now = later(now, Duration::from_secs(1));
    assert!(check(now), "the new pair is complete");
    let rotated = rotations.try_recv().unwrap();
    assert_eq!((&*rotated.old.unwrap(), &*rotated.new), (old, new));
    assert!(rotations.try_recv().is_none());
}

/// A problem of another program: a reader combines the chain of one pair with the key of another.
/// <https://github.com/spiffe/spiffe-helper/issues/422>
#[test]
fn pair_is_old_or_new_after_each_step_of_each_way_to_replace_files() {
    let key = new_key();
    let other_key = [with_ca(new_key()), with_ca(new_key())];
    let same_key = [with_ca(key.clone()), with_ca(key)];
    for layout in Layout::ALL {
        for way in Way::ALL {
            // A program that leaves a file incomplete for a second or more is not noticed.
            let longest = if way.is_whole() { 2_000 } else { 900 };
            for pause in [0, 300, longest].map(Duration::from_millis) {
                for pairs in [&other_key, &same_key] {
                    println!("{layout:?}, {way:?}, {pause:?}");
                    replaced_without_mixture(layout, way, pause, pairs);
                }
            }
        }
    }
}

#[test]
fn files_that_are_no_pair_are_reported_after_ten_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, [first, second]) = (Layout::CertificateKey, [pair(), pair()]);
    Way::Renames.replace(directory.path(), &layout.files(&first));
    let files = layout.open(directory.path());
    let (_rotations, mut watch) = files.watch();
    let start = clock::now();
    write_at_rest(&directory.path().join("tls.crt"), second.chain().pem());
    for (millis, is_reported) in [(0, false), (5_000, false), (9_999, false), (10_000, true), (20_000, true)] {
        watch.step(later(start, Duration::from_millis(millis))).unwrap();
        assert_eq!(*files.credential(), first);
        let trouble = files.last_error();
        assert_eq!(trouble.is_some(), is_reported, "after {millis} ms");
        assert!(trouble.is_none_or(|trouble| trouble.contains("tls.crt: the first certificate (serial ")));
    }
    write_at_rest(&directory.path().join("tls.key"), second.key().to_pem().as_bytes());
    watch.step(later(start, Duration::from_secs(30))).unwrap();
    assert_eq!((&*files.credential(), files.last_error()), (&second, None));
}

#[test]
fn last_good_pair_stays_in_use_if_files_are_damaged_or_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, good) = (Layout::CertificateKey, pair());
    Way::InPlace.replace(directory.path(), &layout.files(&good));
    let files = layout.open(directory.path());
    let (_rotations, mut watch) = files.watch();
    let (certificate, mut now) = (directory.path().join("tls.crt"), clock::now());
    let mut trouble = |files: &FileCredential| {
        for _ in 0..2 {
            now = later(now, Duration::from_secs(11));
            watch.step(now).unwrap();
            assert_eq!(*files.credential(), good);
        }
        files.last_error().unwrap()
    };
    let whole = good.chain().pem().len();
    for cut in [0, 1, whole / 2, whole - 20] {
        write_at_rest(&certificate, &good.chain().pem()[..cut]);
        assert!(trouble(&files).contains("tls.crt: "), "cut at {cut}");
    }
    write_at_rest(&certificate, vec![b'a'; 2 << 20]);
    assert!(trouble(&files).contains("longer than 1 MiB"));
    fs::remove_file(&certificate).unwrap();
    assert!(trouble(&files).contains("cannot be read"));
}

#[test]
fn volume_that_is_switched_during_reads_never_yields_mixed_pair() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, pairs) = (Layout::CertificateKey, [pair(), pair()]);
    Way::Volume.replace(directory.path(), &layout.files(&pairs[0]));
    let files = layout.open(directory.path());
    let (is_enough, mut seen) = (AtomicBool::new(false), [0; 2]);
    // On a busy machine, the reader may have no turn during many switches.
    let end = Instant::now() + BOUND.unwrap();
    thread::scope(|scope| {
        let switching = scope.spawn(|| {
            for n in (1..).take_while(|n| *n <= 300 || !is_enough.load(Ordering::SeqCst) && Instant::now() < end) {
                Way::Volume.replace(directory.path(), &layout.files(&pairs[n % 2]));
            }
        });
        while !switching.is_finished() {
            let credential = files.credential();
            seen[pairs.iter().position(|pair| *pair == *credential).expect("one of the pairs")] += 1;
            assert_eq!(files.last_error(), None);
            is_enough.store(seen.iter().all(|times| *times > 1), Ordering::SeqCst);
        }
    });
    assert!(seen.iter().all(|times| *times > 1), "{seen:?}");
}

#[test]
fn watch_ends_if_receiver_is_dropped_and_vice_versa() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = [pair(), pair()];
    Way::InPlace.replace(directory.path(), &Layout::KeyChainBundle.files(&first));
    let files = Layout::KeyChainBundle.open(directory.path()).every(Duration::from_secs(5));
    let now = clock::now();
    let (rotations, mut watch) = files.watch();
    let next = watch.step(later(now, Duration::from_secs(5))).unwrap();
    assert_eq!(next, now.instant.after(Duration::from_secs(10)));
    drop(rotations);
    watch.ended().within(BOUND);
    assert_eq!(watch.step(now), None);
    drop(watch);

    // A replacement before the end is received first.
    let (mut rotations, mut watch) = files.watch();
    Way::InPlace.replace(directory.path(), &Layout::KeyChainBundle.files(&second));
    watch.step(later(now, Duration::from_secs(60))).unwrap();
    drop(watch);
    assert_eq!(*rotations.recv().within(BOUND).unwrap().new, second);
    assert!(rotations.recv().within(BOUND).is_none());
}

#[test]
fn credential_reads_changed_files_itself_only_if_no_watch_exists() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = [pair(), pair()];
    Way::Renames.replace(directory.path(), &Layout::KeyChainBundle.files(&first));
    let files = Layout::KeyChainBundle.open(directory.path());
    let watched = files.watch();
    Way::Renames.replace(directory.path(), &Layout::KeyChainBundle.files(&second));
    assert_eq!(*files.credential(), first);
    drop(watched);
    assert_eq!(*files.clone().credential(), second);
}

#[test]
fn watch_with_interval_of_zero_waits_between_reads() {
    let directory = tempfile::tempdir().unwrap();
    Way::Renames.replace(directory.path(), &Layout::KeyChainBundle.files(&pair()));
    let files = Layout::KeyChainBundle.open(directory.path());
    let (_rotations, mut watch) = files.watch();
    let now = clock::now();
    assert_eq!(watch.step(now), Some(now.instant.after(Duration::from_millis(10))));
}

/// A leaf without its CA, which its users may be unable to verify, and the mended chain.
#[test]
fn chain_mended_for_same_leaf_reaches_receivers_and_configurations() {
    let directory = tempfile::tempdir().unwrap();
    let whole = with_ca(new_key());
    let cut = Credential::new(Chain::from_pem(leaf_pem(whole.chain()).as_bytes()).unwrap(), whole.key().clone());
    let cut = cut.unwrap();
    Way::Renames.replace(directory.path(), &Layout::CertificateKey.files(&cut));
    let files = Layout::CertificateKey.open(directory.path());
    let configs = ClientConfigs::new(&files, || Err(NotYet::new("no server is verified")));
    let presented = || {
        let key = configs.current().client_auth_cert_resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]);
        key.unwrap().cert.len()
    };
    assert_eq!(presented(), 1);
    let (mut rotations, mut watch) = files.watch();
    write_at_rest(&directory.path().join("tls.crt"), whole.chain().pem());
    watch.step(later(clock::now(), Duration::from_secs(1))).unwrap();
    assert_eq!(presented(), 2);
    let rotated = rotations.try_recv().unwrap();
    assert_eq!((&*rotated.old.unwrap(), &*rotated.new), (&cut, &whole));
    assert!(rotations.try_recv().is_none());
}

#[test]
fn runtimes_watch_files_until_receiver_is_dropped() {
    on_both(|runtime| {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = [pair(), pair()];
        Way::Volume.replace(directory.path(), &Layout::KeyChainBundle.files(&first));
        let files = Layout::KeyChainBundle.open(directory.path()).every(Duration::from_millis(5));
        let (ended, has_ended) = mpsc::channel();
        let mut rotations = match runtime {
            Runtime::Smol => {
                let (rotations, watching) = perennial_smol::watch(&files);
                thread::spawn(move || {
                    smol::block_on(watching);
                    ended.send(()).unwrap();
                });
                rotations
            }
            _ => {
                drop(ended);
                perennial_std::watch(&files).unwrap()
            }
        };
        Way::Volume.replace(directory.path(), &Layout::KeyChainBundle.files(&second));
        let rotated = rotations.recv().within(BOUND).unwrap();
        assert_eq!((&*rotated.old.unwrap(), &*rotated.new), (&first, &second));
        assert_eq!(*files.credential(), second);
        drop(rotations);
        let is_over = has_ended.recv_timeout(BOUND.unwrap());
        assert_eq!(is_over.is_ok(), matches!(runtime, Runtime::Smol));
    });
}

#[test]
fn open_error_names_unusable_file_and_reason() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let error = || FileCredential::open(directory.join("tls.crt"), directory.join("tls.key")).unwrap_err().to_string();
    assert!(error().contains("tls.crt: cannot be read"), "{}", error());
    let [one, other] = [pair(), pair()];
    fs::write(directory.join("tls.crt"), one.chain().pem()).unwrap();
    fs::write(directory.join("tls.key"), other.key().to_pem().as_bytes()).unwrap();
    assert!(error().contains("tls.crt"), "{}", error());
    fs::write(directory.join("tls.key"), "no key").unwrap();
    assert!(error().contains("tls.key"), "{}", error());
    let error = FileCredential::open_bundle(directory.join("tls.crt")).unwrap_err().to_string();
    assert!(error.contains("tls.crt"), "{error}");
}

#[test]
fn server_follows_switched_volume_and_keeps_connections() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), new_authority());
    let issue = || {
        let (mut random, day) = (Random::from_os().unwrap(), Duration::from_secs(86_400));
        authority.server_credential(&["localhost"], &[], &mut random, clock::now().unix, day).unwrap()
    };
    let (layout, pairs) = (Layout::KeyChainBundle, [issue(), issue(), issue()]);
    Way::Volume.replace(directory.path(), &layout.files(&pairs[0]));
    let files = layout.open(directory.path()).every(Duration::from_millis(5));
    let mut rotations = perennial_std::watch(&files).unwrap();
    let address = server(server_config(&files));
    let config = Arc::new(client_config(Source::new(|| None), authority.roots().unwrap()));
    let mut connections: Vec<Stream> = Vec::new();
    for (n, pair) in pairs.iter().enumerate() {
        if n > 0 {
            Way::Volume.replace(directory.path(), &layout.files(pair));
            assert_eq!(*rotations.recv().within(BOUND).unwrap().new, *pair);
        }
        connections.push(connect(address, config.clone()));
        // Each connection keeps the certificate of its handshake.
        for (stream, pair) in connections.iter_mut().zip(&pairs) {
            answer(stream);
            let shown = hex(&stream.get_ref().conn.peer_certificates().unwrap()[0]);
            assert_eq!(shown, fingerprint(pair));
        }
    }
}
