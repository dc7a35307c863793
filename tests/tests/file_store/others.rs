//! Files of other programs: adopted, or left in place.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use perennial::Template;
use perennial_pki::{Credential, interim};
use perennial_rotation::{FileOptions, FileStore, LoadRequest, Restored, Store as _};
use perennial_tests::disk::{NOW, expired, pair};

use super::{LAYOUTS, NAME, Place, files_in, is, load, names, numbered, request, two_cas, write};

#[test]
fn pair_with_wanted_name_is_adopted_and_later_replaced() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let credential = numbered(0);
        place.put(&credential);
        let before = names(&place.at(""));
        let store = place.store(FileOptions::default());
        assert!(is(load(&store).credential.as_deref(), &credential), "{layout}");
        assert_eq!(names(&place.at("")), before, "{layout}: a load without a change writes nothing");
        let next = numbered(1);
        write(&store, &next);
        assert!(is(place.public().ok().as_deref(), &next), "{layout}");
    }
}

#[test]
fn pair_with_other_name_is_kept_unless_operator_allows() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let foreign = pair("postgres", 0);
        place.put(&foreign);
        let store = place.store(FileOptions::default());
        let stored = load(&store);
        assert!(stored.credential.is_none(), "{layout}");
        let ours = numbered(1);
        let error = store.write(&ours, true, NOW).unwrap_err().to_string();
        assert!(error.contains("the certificate in this file is for postgres, not for etcd"), "{layout}: {error}");
        assert!(is(place.public().ok().as_deref(), &foreign), "{layout}");
        // The pair itself is not lost: the next start continues with it.
        assert!(is(load(&store).credential.as_deref(), &ours), "{layout}");
        drop(store);
        let allowed = place.store(FileOptions { replaces_foreign: true, ..FileOptions::default() });
        assert!(is(load(&allowed).credential.as_deref(), &ours), "{layout}");
        assert!(is(place.public().ok().as_deref(), &ours), "{layout}: completed by the load");
    }
}

#[test]
fn pair_kept_aside_is_reported_until_file_of_other_program_is_removed() {
    for (layout, is_link) in LAYOUTS.into_iter().flat_map(|layout| [(layout, false), (layout, true)]) {
        let what = format!("{layout}, link: {is_link}");
        let place = Place::new(layout);
        let files = place.files();
        if is_link {
            fs::create_dir(place.at("")).unwrap();
            symlink("elsewhere", &files[0]).unwrap();
        } else {
            place.put(&pair("postgres", 0));
        }
        let store = place.store(FileOptions::default());
        let before = load(&store);
        assert!(before.credential.is_none() && store.unpublished().is_none(), "{what}: nothing to publish");
        assert!(store.check_files(NAME, NOW).is_err_and(|error| error.is_foreign()), "{what}");
        let ours = numbered(1);
        let error = store.write(&ours, true, NOW).unwrap_err().to_string();
        let unpublished = store.unpublished().unwrap();
        assert!((unpublished.since, unpublished.is_foreign) == (NOW, true) && unpublished.error == error, "{what}");
        // Also after a restart, and as long as it lasts.
        drop(store);
        let store = place.store(FileOptions::default());
        load(&store);
        assert_eq!(store.unpublished().unwrap(), unpublished, "{what}");
        store.restore(NOW.after(Duration::from_secs(60))).unwrap_err();
        assert_eq!(store.unpublished().unwrap(), unpublished, "{what}: since the first failure");
        files.iter().for_each(|file| drop(fs::remove_file(file)));
        store.check_files(NAME, NOW).unwrap();
        assert_eq!(store.restore(NOW).unwrap(), Restored::Written, "{what}");
        assert!(store.unpublished().is_none() && is(place.public().ok().as_deref(), &ours), "{what}");
    }
}

#[test]
fn pair_that_is_in_memory_only_is_not_reported_as_kept_aside() {
    let place = Place::new("plain");
    place.put(&pair("postgres", 0));
    let store = place.store(FileOptions::default());
    store.write(&numbered(1), true, NOW).unwrap_err();
    assert!(store.unpublished().is_some());
    // A file in the place of the private directory keeps the pair from being written.
    fs::remove_dir_all(store.private_directory()).unwrap();
    fs::write(store.private_directory(), "").unwrap();
    store.write(&numbered(2), true, NOW).unwrap_err();
    assert!(store.unpublished().is_none());
}

/// A pair without a common name that expires the later, the higher `number` is.
fn nameless(dns_name: &str, number: u64) -> Arc<Credential> {
    let names = Template::new("").with_dns_names([dns_name]);
    Arc::new(interim(&names, NOW.after(Duration::from_secs(number))).unwrap())
}

#[test]
fn pair_without_common_name_is_kept_unless_names_are_equal() {
    let load = |store: &FileStore| store.load(&request("")).unwrap().credential;
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let foreign = nameless("mail.example", 0);
        place.put(&foreign);
        let store = place.store(FileOptions::default());
        assert!(load(&store).is_none(), "{layout}: adopted");
        let error = store.write(&nameless("web.example", 1), true, NOW).unwrap_err().to_string();
        assert!(error.contains("mail.example") && error.contains("web.example"), "{layout}: {error}");
        assert!(is(place.public().ok().as_deref(), &foreign), "{layout}");
        let ours = nameless("mail.example", 2);
        write(&store, &ours);
        assert!(is(place.public().ok().as_deref(), &ours), "{layout}");
        // Own pairs are known by themselves.
        let other = nameless("new.example", 3);
        write(&store, &other);
        assert!(is(place.public().ok().as_deref(), &other), "{layout}");
        assert!(is(load(&store).as_deref(), &other), "{layout}");
        place.put(&nameless("mail.example", 4));
        assert!(is(load(&store).as_deref(), &other), "{layout}: a later one with other names is not adopted");
        assert!(store.restore(NOW).is_err(), "{layout}: nor replaced");
        let renewed = nameless("new.example", 5);
        place.put(&renewed);
        assert!(is(load(&store).as_deref(), &renewed), "{layout}: one with the names of the own pair is adopted");
    }
}

#[test]
fn ca_file_of_another_program_is_kept_unless_operator_allows() {
    for layout in LAYOUTS {
        for is_pair_found in [false, true] {
            let place = Place::new(layout);
            let what = format!("{layout}, a pair found: {is_pair_found}");
            let [foreign, ours] = two_cas();
            fs::write(place.issuers(), &ours).unwrap();
            fs::create_dir(place.at("")).unwrap();
            fs::write(place.at("ca.crt"), &foreign).unwrap();
            if is_pair_found {
                place.put(&numbered(0));
            }
            let store = place.store(place.with_ca());
            load(&store);
            // The second write finds the pair of the first one in the private directory.
            for number in 1..3 {
                let error = store.write(&numbered(number), true, NOW).unwrap_err().to_string();
                assert!(error.contains("ca.crt") && error.contains("perennial did not write them"), "{what}: {error}");
                assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), foreign, "{what}");
            }
            assert_eq!(place.public().is_ok(), is_pair_found, "{what}: no pair was written beside it");
            drop(store);
            let store = place.store(FileOptions { replaces_foreign: true, ..place.with_ca() });
            write(&store, &numbered(3));
            assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), ours, "{what}");
        }
    }
}

#[test]
fn equal_ca_file_of_another_program_is_replaced_with_its_pair() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        place.put(&numbered(0));
        let [one, other] = two_cas();
        for path in [place.issuers(), place.at("ca.crt")] {
            fs::write(path, &one).unwrap();
        }
        let store = place.store(place.with_ca());
        write(&store, &numbered(1));
        fs::write(place.issuers(), &other).unwrap();
        assert_eq!(store.restore(NOW).unwrap(), Restored::Written, "{layout}");
        assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), other, "{layout}");
    }
}

#[test]
fn ca_file_stays_in_linked_directory_while_its_source_is_unreadable() {
    let place = Place::new("linked");
    fs::create_dir(place.at("")).unwrap();
    let [found, ours] = two_cas();
    fs::write(place.at("ca.crt"), &found).unwrap();
    let (from, store) = (place.issuers(), place.store(place.with_ca()));
    let is_found = |what: &str| assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), found, "{what}");
    write(&store, &numbered(0));
    is_found("before the first switch");
    write(&store, &numbered(1));
    is_found("with an old directory");
    fs::write(&from, &ours).unwrap();
    assert_eq!(store.restore(NOW).unwrap(), Restored::Written);
    assert_eq!(fs::read_to_string(place.at("ca.crt")).unwrap(), ours);
    fs::remove_file(&from).unwrap();
    // An operator puts a file in the place of the link.
    fs::remove_file(place.at("ca.crt")).unwrap();
    fs::write(place.at("ca.crt"), &found).unwrap();
    write(&store, &numbered(2));
    is_found("in the place of the link");
}

#[test]
fn own_pair_with_earlier_name_is_replaced() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        write(&store, &Arc::new(pair("etcd-old", 0)));
        write(&store, &numbered(1));
        assert_eq!(place.public().unwrap().chain().certificate().common_name(), NAME, "{layout}");
    }
}

#[test]
fn earlier_pair_that_a_start_takes_stays_public() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        let (wanted, other) = (numbered(0), Arc::new(pair("other", 1)));
        write(&store, &wanted);
        write(&store, &other);
        let found = store.load(&LoadRequest { has_signer: false, ..request(NAME) }).unwrap();
        assert!(is(found.credential.as_deref(), &wanted) && found.is_misplaced, "{layout}");
        assert!(is(place.public().ok().as_deref(), &other), "{layout}: a load without a signer changes nothing");
        let found = load(&store);
        assert!(is(found.credential.as_deref(), &wanted) && !found.is_misplaced, "{layout}");
        assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged, "{layout}");
        assert!(is(place.public().ok().as_deref(), &wanted), "{layout}");
    }
}

#[test]
fn unreadable_file_is_kept_unless_operator_allows() {
    for layout in LAYOUTS {
        for contents in ["-----BEGIN CERTIFICATE-----\nnonsense\n", "# a comment only\n"] {
            let place = Place::new(layout);
            fs::create_dir(place.at("")).unwrap();
            fs::write(&place.files()[0], contents).unwrap();
            let store = place.store(FileOptions::default());
            let error = store.write(&numbered(0), true, NOW).unwrap_err().to_string();
            assert!(error.contains("not replaced, since another program may need it"), "{layout}: {error}");
            assert_eq!(fs::read_to_string(&place.files()[0]).unwrap(), contents, "{layout}");
        }
        let place = Place::new(layout);
        fs::create_dir(place.at("")).unwrap();
        fs::write(&place.files()[0], "\n").unwrap();
        write(&place.store(FileOptions::default()), &numbered(0));
        assert!(place.public().is_ok(), "{layout}: an empty file is no pair to lose");
    }
}

#[test]
fn key_without_certificate_is_kept_unless_it_is_ours() {
    let place = Place::new("plain");
    let store = place.store(FileOptions::default());
    fs::create_dir(place.at("")).unwrap();
    let other = pair("other", 0);
    fs::write(place.at("tls.key"), other.key().to_pem().as_bytes()).unwrap();
    let error = store.write(&numbered(0), true, NOW).unwrap_err().to_string();
    assert!(error.contains("this private key has no certificate, and perennial did not write it"), "{error}");
    fs::remove_file(place.at("tls.key")).unwrap();
    // A crash after the rename of the key.
    write(&store, &numbered(1));
    fs::remove_file(place.at("tls.crt")).unwrap();
    let loaded = load(&store).credential.unwrap();
    assert!(is(place.public().ok().as_deref(), &loaded));
}

#[test]
fn restore_misses_pair_once_neither_files_nor_copy_have_it() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        write(&store, &numbered(0));
        fs::remove_dir_all(store.private_directory()).unwrap();
        assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged, "{layout}: as adopted files");
        fs::remove_file(&place.files()[1]).unwrap();
        assert_eq!(store.restore(NOW).unwrap(), Restored::Missing, "{layout}: a key without its certificate");
        fs::remove_dir_all(place.at("")).unwrap();
        assert_eq!(store.restore(NOW).unwrap(), Restored::Missing, "{layout}");
    }
}

#[test]
fn restore_writes_changed_files_and_keeps_newer_pair() {
    for layout in LAYOUTS {
        let place = Place::new(layout);
        let store = place.store(FileOptions::default());
        let [old, newer] = [numbered(3), numbered(9)];
        assert_eq!(store.restore(NOW).unwrap(), Restored::Missing, "{layout}: no pair yet");
        write(&store, &old);
        assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged, "{layout}");
        fs::remove_file(&place.files()[1]).unwrap();
        assert_eq!(store.restore(NOW).unwrap(), Restored::Written, "{layout}");
        assert!(is(place.public().ok().as_deref(), &old), "{layout}");
        for path in place.files() {
            let _ = fs::remove_file(path);
        }
        place.put(&pair(NAME, 1));
        assert_eq!(store.restore(NOW).unwrap(), Restored::Written, "{layout}: a pair that expires sooner");
        assert!(is(place.public().ok().as_deref(), &old), "{layout}");
        place.put(&newer);
        assert_eq!(store.restore(NOW).unwrap(), Restored::Unchanged, "{layout}");
        assert!(is(place.public().ok().as_deref(), &newer), "{layout}");
        assert!(is(load(&store).credential.as_deref(), &newer), "{layout}");
    }
}

#[test]
fn expired_pair_of_another_program_is_replaced() {
    let place = Place::new("bundle");
    place.put(&expired(NAME, 1));
    let store = place.store(FileOptions::default());
    write(&store, &numbered(0));
    assert!(is(place.public().ok().as_deref(), load(&store).credential.as_deref().unwrap()));
}

#[test]
fn directory_of_kubelets_volume_is_refused() {
    let place = Place::new("linked");
    fs::create_dir_all(place.at("..2026_01_01_00_00_00.1")).unwrap();
    symlink("..2026_01_01_00_00_00.1", place.at("..data")).unwrap();
    let store = place.store(FileOptions::default());
    for error in [store.is_free(), store.claim()] {
        assert!(error.is_err_and(|error| error.to_string().contains("another program switches this link")));
    }
    assert!(store.write(&numbered(0), true, NOW).is_err());
    assert_eq!(names(&place.at("")), ["..2026_01_01_00_00_00.1", "..data"]);
}

#[test]
fn regular_files_become_links_when_layout_changes() {
    let place = Place::new("plain");
    write(&place.store(FileOptions::default()), &numbered(0));
    let linked = Place { layout: files_in(&place.at(""), "linked"), ..place };
    let store = linked.store(FileOptions::default());
    let first = load(&store).credential.unwrap();
    assert!(is(linked.public().ok().as_deref(), &first));
    assert!(linked.at("tls.key").is_symlink(), "the load has completed the links");
    write(&store, &numbered(1));
    drop(store);
    let plain = Place { layout: files_in(&linked.at(""), "plain"), ..linked };
    let next = numbered(2);
    write(&plain.store(FileOptions::default()), &next);
    assert!(is(plain.public().ok().as_deref(), &next));
    assert!(!plain.at("tls.key").is_symlink());
}
