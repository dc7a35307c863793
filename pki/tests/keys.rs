//! `KeyPair` generates keys, reads keys of other programs, and refuses an unusable key with an error that names the
//! cause.

use perennial::Template;
use perennial_pki::{KeyAlgorithm, KeyEncoding, KeyError, KeyPair, PemError, certificate_request, read_request};
#[cfg(feature = "aws-lc-rs")]
use perennial_tests::openssl::openssl;

const CURVES: &str = if cfg!(feature = "aws-lc-rs") {
    "P-256, P-384 and P-521"
} else {
    "P-256 and P-384 (P-521 in a build with the feature aws-lc-rs)"
};

const GENERATED: [KeyAlgorithm; 3] = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519];
const P256_SEC1: &str = include_str!("data/p256.sec1.pem");
const RSA_PKCS1: &str = include_str!("data/rsa2048.pkcs1.pem");

#[test]
fn generated_key_round_trips_through_pem() {
    for algorithm in GENERATED {
        let key = KeyPair::generate(algorithm).unwrap();
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS#8");
        let again = KeyPair::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(again.algorithm(), algorithm);
        assert_eq!(again.public_key_der(), key.public_key_der());
        assert_eq!(again.to_pem(), pem);
    }
}

#[test]
fn generated_ed25519_key_is_pkcs8_version_1() {
    let key = KeyPair::generate(KeyAlgorithm::Ed25519).unwrap().to_pem();
    let openssl = include_str!("data/ed25519.pkcs8.pem");
    assert_eq!(key.len(), openssl.len());
    assert_eq!(key[..48], openssl[..48], "everything up to the key itself");
}

#[test]
fn generated_keys_differ() {
    for algorithm in GENERATED {
        let [a, b] = [(); 2].map(|()| KeyPair::generate(algorithm).unwrap());
        assert_ne!(a.public_key_der(), b.public_key_der());
    }
}

#[test]
fn key_with_public_key_of_another_is_refused() {
    // Only the DER forms below contain a public key. Both end with it.
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384] {
        let [one, other] = [(); 2].map(|()| der(&KeyPair::generate(algorithm).unwrap().to_pem()));
        let point = if algorithm == KeyAlgorithm::EcdsaP256 { 64 } else { 96 };
        let mixed = [&one[..one.len() - point], &other[other.len() - point..]].concat();
        assert!(KeyPair::from_der(&one).is_ok() && KeyPair::from_der(&mixed).is_err(), "{algorithm}");
    }
    let [one, other] = [(); 2].map(|()| KeyPair::generate(KeyAlgorithm::Ed25519).unwrap());
    let public = |key: &KeyPair| key.public_key_der()[12..].to_vec();
    // Version 2 of PKCS#8 (RFC 8410 §7): version 1, and then the public key.
    let v2 = |public: Vec<u8>| {
        let v1 = der(&one.to_pem());
        [&[0x30, 0x51, 2, 1, 1], &v1[5..], &[0x81, 0x21, 0], &public].concat()
    };
    assert!(KeyPair::from_der(&v2(public(&one))).is_ok() && KeyPair::from_der(&v2(public(&other))).is_err());
}

#[test]
fn imported_key_is_written_back_unchanged() {
    for (pem, algorithm) in [
        (P256_SEC1, KeyAlgorithm::EcdsaP256),
        (include_str!("data/p384.sec1.pem"), KeyAlgorithm::EcdsaP384),
        (include_str!("data/ed25519.pkcs8.pem"), KeyAlgorithm::Ed25519),
        (RSA_PKCS1, KeyAlgorithm::Rsa),
        (include_str!("data/rsa2048.pkcs8.pem"), KeyAlgorithm::Rsa),
    ] {
        let key = KeyPair::from_pem(pem).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert!(pem.ends_with(key.to_pem().as_str()));
        let request = certificate_request(&Template::new("x"), &key).unwrap();
        let facts = read_request(request.pem.as_bytes()).unwrap();
        assert_eq!((facts.key_algorithm, &*facts.public_key_der), (algorithm, key.public_key_der()));
    }
}

#[test]
fn key_is_written_in_each_encoding_of_its_kind() {
    const ALL: [(KeyEncoding, &str); 3] = [
        (KeyEncoding::Pkcs8, "-----BEGIN PRIVATE KEY-----\n"),
        (KeyEncoding::Pkcs1, "-----BEGIN RSA PRIVATE KEY-----\n"),
        (KeyEncoding::Sec1, "-----BEGIN EC PRIVATE KEY-----\n"),
    ];
    let generated = GENERATED.map(|algorithm| KeyPair::generate(algorithm).unwrap());
    let imported = [P256_SEC1, RSA_PKCS1, include_str!("data/p384.sec1.pem"), include_str!("data/rsa2048.pkcs8.pem")];
    let imported = imported.map(|pem| KeyPair::from_pem(pem).unwrap());
    for key in generated.iter().chain(&imported) {
        let mut count = 0;
        for (encoding, label) in ALL {
            let Some(pem) = key.to_pem_as(encoding) else { continue };
            count += 1;
            assert!(pem.starts_with(label), "{encoding:?}: {}", &pem[..40]);
            let again = KeyPair::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(again.public_key_der(), key.public_key_der(), "{encoding:?}");
            // Written in its own encoding, and encoded back to that of the first.
            assert_eq!(again.to_pem(), pem);
            for (other, _) in ALL {
                let text = |key: &KeyPair| key.to_pem_as(other).map(|pem| pem.to_string());
                assert!(again.to_pem_as(other).is_some() == key.to_pem_as(other).is_some(), "{encoding:?} {other:?}");
                assert!(other == KeyEncoding::Pkcs8 || text(&again) == text(key), "{encoding:?} {other:?}");
            }
        }
        let expected = if key.algorithm() == KeyAlgorithm::Ed25519 { 1 } else { 2 };
        assert_eq!(count, expected, "{}", key.algorithm());
    }
    assert_eq!(
        imported[0].to_pem_as(KeyEncoding::Sec1).unwrap().as_str(),
        P256_SEC1
            .lines()
            .skip_while(|line| { !line.contains("EC PRIVATE KEY") })
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
        "as openssl writes it"
    );
    let pkcs8 = include_str!("data/rsa2048.pkcs8.pem");
    assert!(pkcs8.ends_with(KeyPair::from_pem(pkcs8).unwrap().to_pem_as(KeyEncoding::Pkcs8).unwrap().as_str()));
}

/// The content of the last block in a PEM text.
fn der(pem: &str) -> Vec<u8> {
    // rustls knows no label of encrypted keys.
    let block = pem[pem.rfind("-----BEGIN").unwrap()..].replace("ENCRYPTED ", "");
    rustls::pki_types::pem::PemObject::from_pem_slice(block.as_bytes())
        .map(|(_, der): (rustls::pki_types::pem::SectionKind, Vec<u8>)| der)
        .unwrap()
}

#[test]
fn key_in_der_is_recognized_by_its_contents() {
    for (pem, algorithm) in [
        (P256_SEC1, KeyAlgorithm::EcdsaP256),
        (include_str!("data/p384.sec1.pem"), KeyAlgorithm::EcdsaP384),
        (include_str!("data/ed25519.pkcs8.pem"), KeyAlgorithm::Ed25519),
        (RSA_PKCS1, KeyAlgorithm::Rsa),
        (include_str!("data/rsa2048.pkcs8.pem"), KeyAlgorithm::Rsa),
    ] {
        let key = KeyPair::from_der(&der(pem)).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert!(pem.ends_with(key.to_pem().as_str()));
    }
}

#[test]
fn unusable_der_is_refused_with_cause() {
    for (input, expected) in [
        (der(include_str!("data/p256.encrypted.pem")), KeyError::Encrypted),
        (der(include_str!("data/rsa1024.pkcs1.pem")), KeyError::RsaSize { bits: 1024 }),
        #[cfg(not(feature = "aws-lc-rs"))]
        (der(include_str!("data/p521.sec1.pem")), KeyError::Curve { curve: "P-521".into() }),
        (der(include_str!("data/x25519.pkcs8.pem")), KeyError::Unsupported { kind: "X25519".into() }),
        (der(include_str!("data/multi.crt.pem")), KeyError::Malformed),
        (P256_SEC1.as_bytes().to_vec(), KeyError::Malformed),
        (Vec::new(), KeyError::Malformed),
        (vec![0x30, 0], KeyError::Malformed),
        ([der(RSA_PKCS1), vec![0]].concat(), KeyError::Malformed),
    ] {
        assert_eq!(KeyPair::from_der(&input).err(), Some(expected));
    }
}

#[test]
fn key_is_found_among_certificates_and_text() {
    let bundle = format!("{}\nsome text\n{P256_SEC1}{RSA_PKCS1}", include_str!("data/multi.crt.pem"));
    assert_eq!(KeyPair::from_pem(&bundle).unwrap().algorithm(), KeyAlgorithm::EcdsaP256, "the first one");
}

#[test]
fn unsupported_or_unreadable_key_is_refused_with_cause() {
    for (pem, expected) in [
        (include_str!("data/rsa1024.pkcs1.pem"), KeyError::RsaSize { bits: 1024 }),
        #[cfg(not(feature = "aws-lc-rs"))]
        (include_str!("data/p521.sec1.pem"), KeyError::Curve { curve: "P-521".into() }),
        (include_str!("data/rsa1024.pkcs8.pem"), KeyError::RsaSize { bits: 1024 }),
        #[cfg(not(feature = "aws-lc-rs"))]
        (include_str!("data/p521.pkcs8.pem"), KeyError::Curve { curve: "P-521".into() }),
        (include_str!("data/brainpool.sec1.pem"), KeyError::Curve { curve: "1.3.36.3.3.2.8.1.1.7".into() }),
        (include_str!("data/x25519.pkcs8.pem"), KeyError::Unsupported { kind: "X25519".into() }),
        (include_str!("data/p256.encrypted.pem"), KeyError::Encrypted),
        (include_str!("data/p256.legacy-encrypted.pem"), KeyError::Encrypted),
        (include_str!("data/multi.crt.pem"), KeyError::NoKey),
        ("", KeyError::NoKey),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", KeyError::Malformed),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA",
            KeyError::Pem(PemError::Unclosed { block: 1, line: 1, label: "PRIVATE KEY".into() }),
        ),
    ] {
        assert_eq!(KeyPair::from_pem(pem).err(), Some(expected));
    }
}

#[test]
fn damaged_key_is_reported_malformed_rather_than_weak() {
    for pem in [P256_SEC1, RSA_PKCS1, include_str!("data/rsa2048.pkcs8.pem"), include_str!("data/ed25519.pkcs8.pem")] {
        let whole: Vec<&str> = pem.lines().collect();
        let begin = whole.iter().rposition(|line| line.starts_with("-----BEGIN")).unwrap();
        let cut = [&whole[begin..begin + 1], &["MAMCAQA="], &whole[whole.len() - 1..]].concat().join("\n");
        assert_eq!(KeyPair::from_pem(cut).err(), Some(KeyError::Malformed));
    }
}

#[test]
fn key_errors_name_their_cause() {
    for (error, message) in [
        (
            KeyError::RsaSize { bits: 1024 },
            "RSA keys of 1024 bits are not supported by perennial: too weak; supported are 2048 to 4096 bits",
        ),
        (
            KeyError::RsaSize { bits: 8192 },
            "RSA keys of 8192 bits are not supported by perennial: too long; supported are 2048 to 4096 bits",
        ),
        (
            KeyError::Curve { curve: "P-521".into() },
            &format!("ECDSA keys on P-521 are not supported by perennial; supported are the curves {CURVES}"),
        ),
        (
            KeyError::Unsupported { kind: "Ed448".into() },
            &format!(
                "private keys of kind Ed448 are not supported by perennial; supported are ECDSA on {CURVES}, Ed25519, \
                 and RSA of 2048 to 4096 bits"
            ),
        ),
        (
            KeyError::NoPublicKey,
            "the private key lacks its public key, and there is no certificate to take it from; \
             `openssl pkey -in FILE -out FILE.pem` adds it",
        ),
        (KeyError::Malformed, "the private key is malformed; is the file damaged?"),
    ] {
        assert_eq!(error.to_string(), message);
    }
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn generated_rsa_key_signs_request() {
    for (algorithm, bits) in [(KeyAlgorithm::Rsa, 3072), (KeyAlgorithm::Rsa4096, 4096)] {
        let key = KeyPair::generate(algorithm).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        // The SubjectPublicKeyInfo has 38 bytes besides the modulus.
        assert_eq!(key.public_key_der().len(), bits / 8 + 38);
        let request = certificate_request(&Template::node("worker-1"), &key).unwrap();
        let facts = read_request(request.pem.as_bytes()).unwrap();
        assert_eq!((facts.key_algorithm, &*facts.public_key_der), (algorithm, key.public_key_der()));
        let again = KeyPair::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!((again.algorithm(), again.public_key_der()), (algorithm, key.public_key_der()));
    }
}

#[cfg(not(feature = "aws-lc-rs"))]
#[test]
fn generate_refuses_rsa_and_p521_without_feature_aws_lc_rs() {
    for (algorithm, reason) in [
        (KeyAlgorithm::Rsa, "rsa keys can be imported but not generated by this build of perennial"),
        (KeyAlgorithm::Rsa4096, "rsa-4096 keys can be imported but not generated"),
        (KeyAlgorithm::EcdsaP521, "ecdsa-p521 keys can be neither generated nor imported by this build"),
    ] {
        assert!(!algorithm.can_be_generated());
        let error = KeyPair::generate(algorithm).unwrap_err();
        assert_eq!(error, KeyError::NotGenerated { algorithm });
        let error = error.to_string();
        assert!(
            error.starts_with(reason) && error.contains("lacks the feature aws-lc-rs; choose ecdsa-p256"),
            "{error}"
        );
    }
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn p521_key_is_generated_read_and_written_in_each_encoding() {
    let read = ["sec1", "pkcs8"].map(|form| std::fs::read_to_string(format!("tests/data/p521.{form}.pem")).unwrap());
    let read = read.map(|pem| KeyPair::from_pem(pem).unwrap());
    for key in read.into_iter().chain([KeyPair::generate(KeyAlgorithm::EcdsaP521).unwrap()]) {
        assert_eq!(key.algorithm(), KeyAlgorithm::EcdsaP521);
        let request = certificate_request(&Template::default(), &key).unwrap();
        let facts = read_request(request.pem.as_bytes()).unwrap();
        assert_eq!((facts.key_algorithm, &*facts.public_key_der), (KeyAlgorithm::EcdsaP521, key.public_key_der()));
        for encoding in [KeyEncoding::Pkcs8, KeyEncoding::Sec1] {
            let written = key.to_pem_as(encoding).unwrap();
            let again = KeyPair::from_pem(written.as_bytes()).unwrap();
            assert_eq!(again.public_key_der(), key.public_key_der(), "{encoding:?}");
            assert!(openssl("pkey -check -noout", written.as_bytes()).contains("valid"), "{encoding:?}");
        }
        let checked = openssl("req -verify -noout -subject", request.pem.as_bytes());
        assert!(checked.trim_end().ends_with("subject="), "{checked}");
    }
}

#[test]
fn rsa_admits_rsa_keys_of_any_length() {
    let all = [GENERATED.as_slice(), &[KeyAlgorithm::Rsa, KeyAlgorithm::Rsa4096, KeyAlgorithm::EcdsaP521]].concat();
    for wanted in &all {
        let admitted: Vec<_> = all.iter().filter(|key| wanted.admits(**key)).copied().collect();
        match wanted {
            KeyAlgorithm::Rsa => assert_eq!(admitted, [KeyAlgorithm::Rsa, KeyAlgorithm::Rsa4096]),
            wanted => assert_eq!(admitted, [*wanted]),
        }
    }
}

#[test]
fn key_algorithms_display_as_lower_case_names() {
    let all = [GENERATED.as_slice(), &[KeyAlgorithm::Rsa, KeyAlgorithm::Rsa4096, KeyAlgorithm::EcdsaP521]].concat();
    let shown: Vec<_> = all.iter().map(KeyAlgorithm::to_string).collect();
    assert_eq!(shown, ["ecdsa-p256", "ecdsa-p384", "ed25519", "rsa", "rsa-4096", "ecdsa-p521"]);
}

#[test]
fn key_debug_shows_only_algorithm() {
    let key = KeyPair::from_pem(P256_SEC1).unwrap();
    assert_eq!(format!("{key:?}"), "KeyPair { algorithm: EcdsaP256, .. }");
}

#[test]
fn key_errors_do_not_quote_key() {
    let secret = P256_SEC1.lines().nth(4).unwrap();
    for broken in [
        P256_SEC1.replace("MHc", "!!!"),
        P256_SEC1.replace("MHc", "MHd"),
        P256_SEC1.replace("-----END EC P", ""),
        P256_SEC1.replace('\n', ""),
    ] {
        let error = KeyPair::from_pem(&broken).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&secret[..16]));
    }
}

#[test]
fn tls_signing_key_has_public_key_of_pair() {
    for algorithm in GENERATED {
        let key = KeyPair::generate(algorithm).unwrap();
        let signing = key.signing_key();
        assert_eq!(signing.public_key().unwrap().as_ref(), key.public_key_der());
    }
}
