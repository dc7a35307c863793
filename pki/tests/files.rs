//! Pairs and CA bundles of other programs: perennial reads them as Go and openssl do, or refuses them with an error
//! that names the format or the damage.

use std::fmt::Write as _;

use perennial_pki::{Chain, ChainError, Credential, CredentialError, KeyAlgorithm, KeyError, KeyPair, PemError, Roots};
use perennial_tests::openssl::{openssl, openssl_binary};

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";

/// Makes a self-signed certificate and its PKCS#8 key with openssl. `kind` contains the options for `openssl genpkey`,
/// such as [`P256`].
fn pair(kind: &str) -> (String, String) {
    let key = openssl(&format!("genpkey {kind}"), "");
    let certificate = openssl("req -new -x509 -key /dev/stdin -subj /CN=of-openssl -days 2", key.as_bytes());
    (certificate, key)
}

fn convert(line: &str, pem: &str) -> String {
    openssl(line, pem.as_bytes())
}

fn relabel(pem: &str, from: &str, to: &str) -> String {
    pem.replace(&format!("BEGIN {from}-"), &format!("BEGIN {to}-"))
        .replace(&format!("END {from}-"), &format!("END {to}-"))
}

/// Adds two headers to the PEM block, as some programs do. `blank` is put after the headers: a blank line or nothing.
fn with_header(block: &str, blank: &str) -> String {
    block.replacen("-----\n", &format!("-----\nfriendlyName: my: key\nlocalKeyID: 01\n{blank}"), 1)
}

fn half(block: &str) -> &str {
    &block[..block.len() / 2]
}

fn read(pem: &str) -> Result<Credential, CredentialError> {
    Credential::from_pem(pem.as_bytes())
}

fn line_of(pem: &str, what: &str) -> usize {
    pem.lines().position(|line| line == what).unwrap() + 1
}

/// Writes the credential as PEM, and asserts that openssl finds its key valid and that perennial reads the same pair.
fn assert_survives_rewriting(credential: &Credential, what: &str) {
    let pem = credential.to_pem();
    let public = convert("pkey -check -pubout", &credential.key().to_pem());
    assert!(public.contains("Key is valid"), "{what}: {public}");
    let again = read(&pem).unwrap();
    assert_eq!(again.key().public_key_der(), credential.key().public_key_der(), "{what}");
    assert_eq!(*again.to_pem(), *pem, "{what}");
}

/// From the field, a key with the PEM label of another encoding: <https://github.com/rustls/rustls/issues/2038>
#[test]
fn key_is_read_under_any_private_key_label() {
    for kind in [P256, P384] {
        let (certificate, pkcs8) = pair(kind);
        let sec1 = convert("ec", &pkcs8);
        let no_public = convert("ec -no_public", &pkcs8);
        let parameters = convert("ecparam -name prime256v1", "");
        for (what, key) in [
            ("PKCS#8", pkcs8.clone()),
            ("SEC 1", sec1.clone()),
            ("PKCS#8 under EC PRIVATE KEY", relabel(&pkcs8, "PRIVATE KEY", "EC PRIVATE KEY")),
            ("PKCS#8 under a label of its own", relabel(&pkcs8, "PRIVATE KEY", "MY OWN PRIVATE KEY")),
            ("SEC 1 under PRIVATE KEY", relabel(&sec1, "EC PRIVATE KEY", "PRIVATE KEY")),
            ("SEC 1 under RSA PRIVATE KEY", relabel(&sec1, "EC PRIVATE KEY", "RSA PRIVATE KEY")),
            ("SEC 1 without the public key", no_public.clone()),
            ("PKCS#8 without the public key", convert("pkcs8 -topk8 -nocrypt", &no_public)),
            ("SEC 1 with a compressed point", convert("ec -conv_form compressed", &pkcs8)),
            ("PKCS#8 with a compressed point", convert("pkey -ec_conv_form compressed", &pkcs8)),
            ("EC PARAMETERS first", format!("{parameters}{sec1}")),
            ("headers", with_header(&pkcs8, "\n")),
            ("headers without a blank line", with_header(&pkcs8, "")),
        ] {
            for bundle in [format!("{certificate}{key}"), format!("{key}{certificate}")] {
                let read = read(&bundle).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(read.chain().skipped(), [], "{what}");
                assert_survives_rewriting(&read, what);
            }
            Credential::from_pair(certificate.as_bytes(), key.as_bytes()).expect(what);
        }
    }
    let (certificate, pkcs8) = pair("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    let pkcs1 = convert("rsa -traditional", &pkcs8);
    for (what, key) in [
        ("PKCS#1", pkcs1.clone()),
        ("PKCS#1 under PRIVATE KEY", relabel(&pkcs1, "RSA PRIVATE KEY", "PRIVATE KEY")),
        ("PKCS#8 under RSA PRIVATE KEY", relabel(&pkcs8, "PRIVATE KEY", "RSA PRIVATE KEY")),
    ] {
        let read = read(&format!("{certificate}{key}")).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(read.key().algorithm(), KeyAlgorithm::Rsa);
        assert_survives_rewriting(&read, what);
    }
}

/// One EC private key in 256 begins with a zero byte, and old versions of openssl omit such zeros.
#[test]
fn ec_key_without_leading_zeros_is_padded() {
    let scalar: Vec<u8> = (1..32).collect();
    let curve = [0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let pem = |scalar: &[u8]| {
        let length = |more: usize| u8::try_from(scalar.len() + more).unwrap();
        let der = [&[0x30, length(5 + curve.len()), 2, 1, 1, 4, length(0)], scalar, &curve].concat();
        format!("-----BEGIN EC PRIVATE KEY-----\n{}-----END EC PRIVATE KEY-----\n", base64(&der))
    };
    let padded = pem(&[&[0], &scalar[..]].concat());
    let certificate = convert("req -new -x509 -key /dev/stdin -subj /CN=x -days 2", &padded);
    for (what, key) in [("short", pem(&scalar)), ("whole", padded), ("long", pem(&[&[0, 0], &scalar[..]].concat()))] {
        assert_survives_rewriting(&read(&format!("{certificate}{key}")).expect(what), what);
    }
}

#[test]
fn ec_key_without_public_key_is_completed_from_certificate() {
    let (certificate, pkcs8) = pair(P256);
    let (other_certificate, _) = pair(P256);
    let (p384_certificate, _) = pair(P384);
    let no_public = convert("ec -no_public", &pkcs8);
    assert_eq!(KeyPair::from_pem(&no_public).unwrap_err(), KeyError::NoPublicKey);
    read(&format!("{certificate}{no_public}")).unwrap();
    for certificate in [other_certificate, p384_certificate] {
        let error = read(&format!("{certificate}{no_public}")).unwrap_err();
        assert!(matches!(error, CredentialError::KeyMismatch { .. }), "{error:?}");
    }
}

#[test]
fn good_pair_is_read_despite_damage_elsewhere_in_the_file() {
    let (certificate, key) = pair(P256);
    let (other, _) = pair(P256);
    let good = format!("{certificate}{key}");
    let lines = good.lines().count();
    let not_base64 = other.replacen("MII", "M!I", 1);
    let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let label = || "CERTIFICATE".to_owned();
    let unclosed = PemError::Unclosed { block: 3, line: lines + 1, label: label() };
    let is_not_base64 = PemError::NotBase64 { block: 3, line: lines + 1, label: label() };
    for (what, bundle, skipped) in [
        ("half a block after it", format!("{good}{}", half(&other)), vec![unclosed]),
        ("a block that is not base64 after it", format!("{good}{not_base64}"), vec![is_not_base64]),
        (
            "a block that is not base64 before it",
            format!("{not_base64}{good}"),
            vec![PemError::NotBase64 { block: 1, line: 1, label: label() }],
        ),
        (
            "half a block before it",
            format!("{}\n{good}", half(&other)),
            vec![PemError::Unclosed { block: 1, line: 1, label: label() }],
        ),
        (
            "half a key after it",
            format!("{good}{}", half(&key)),
            vec![PemError::Unclosed { block: 3, line: lines + 1, label: "PRIVATE KEY".into() }],
        ),
        (
            "a certificate that is none after it",
            format!("{good}{not_x509}"),
            vec![PemError::Unusable {
                block: 3,
                line: lines + 1,
                reason: "it is not valid DER: cut short, damaged, or no certificate at all".into(),
            }],
        ),
        (
            "the end of a block before it",
            format!("AAAA\n-----END X509 CRL-----\n{good}"),
            vec![PemError::Unopened { line: 2, label: "X509 CRL".into() }],
        ),
        ("a byte order mark", format!("\u{feff}{good}"), vec![]),
        ("byte order marks before both", format!("\u{feff}{certificate}\u{feff}{key}"), vec![]),
        ("text and CRLF", format!("subject=x\n{certificate}\nkey:\n{key}end").replace('\n', "\r\n"), vec![]),
        ("headers in the certificate", format!("{}{key}", with_header(&certificate, "\n")), vec![]),
    ] {
        let read = read(&bundle).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(read.chain().certificate().common_name(), "of-openssl", "{what}");
        assert_eq!(read.chain().der().len(), 1, "{what}");
        assert_eq!(read.chain().skipped(), skipped, "{what}");
    }
    // If there are two files, the chain lists the damage in its file, and the key the damage in the key file.
    let (certificate, key) = (format!("{certificate}{}", half(&other)), format!("{key}{}", half(&key)));
    let read = Credential::from_pair(certificate.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!((read.chain().skipped().len(), read.key().skipped().len()), (1, 1));
}

/// From the field, PEM files that were joined without a newline between them:
/// <https://github.com/zenhack/simp_le/issues/149>, <https://github.com/debops/debops/issues/1424>
#[test]
fn error_names_line_that_pem_boundary_shares_with_other_text() {
    let (certificate, key) = pair(P256);
    let (bare_certificate, bare_key) = (certificate.trim_end(), key.trim_end());
    let end = "-----END CERTIFICATE-----";
    let line = line_of(&certificate, end);
    for (what, bundle, line) in [
        ("certificate and key", format!("{bare_certificate}{key}"), line),
        ("key and certificate", format!("{bare_key}{certificate}"), line_of(&key, "-----END PRIVATE KEY-----")),
        ("leaf and issuer", format!("{bare_certificate}{certificate}{key}"), line),
        ("a boundary behind base64", format!("{}{key}", certificate.replace(&format!("\n{end}"), end)), line - 1),
        ("lines that lost their ends", format!("{}\n{key}", bare_certificate.replace('\n', "")), 1),
    ] {
        let expected = format!(
            "line {line} holds a PEM boundary and something else; give each `-----BEGIN …-----` and `-----END …-----` \
             a line of its own (files joined with `cat` have to end with a newline)"
        );
        assert_eq!(read(&bundle).unwrap_err().to_string(), expected, "{what}");
        assert!(Chain::from_issued(bundle.as_bytes()).is_err(), "{what}");
    }
}

#[test]
fn unsupported_kind_of_key_is_named_in_error() {
    let curve = |curve: &str| CredentialError::Key(KeyError::Curve { curve: curve.into() });
    let rsa = |bits| CredentialError::Key(KeyError::RsaSize { bits });
    let other = |kind: &str| CredentialError::Key(KeyError::Unsupported { kind: kind.into() });
    for (kind, expected) in [
        #[cfg(not(feature = "aws-lc-rs"))]
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", curve("P-521")),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-224", curve("P-224")),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", curve("secp256k1")),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", rsa(1024)),
        ("-algorithm RSA-PSS", other("RSA-PSS")),
        ("-algorithm ED448", other("Ed448")),
    ] {
        let (certificate, key) = pair(kind);
        let error = read(&format!("{certificate}{key}")).unwrap_err();
        assert_eq!(error, expected, "{kind}");
        assert!(error.is_unsupported() && error.to_string().contains("not supported by perennial"), "{error}");
    }
    // openssl takes long to generate 8192 bits, and only the length of the modulus is read.
    let modulus = [&[0x02, 0x82, 0x04, 0x01, 0][..], &[0xff; 1024]].concat();
    let der = [&[0x30, 0x82, 0x04, 0x08, 2, 1, 0], &modulus[..]].concat();
    let key = base64(&der);
    let key = format!("-----BEGIN RSA PRIVATE KEY-----\n{key}-----END RSA PRIVATE KEY-----\n");
    assert_eq!(KeyPair::from_pem(key).unwrap_err(), KeyError::RsaSize { bits: 8192 });

    let (_, key) = pair(P256);
    let compressed = convert("pkey -ec_conv_form compressed", &key);
    let certificate = convert("req -new -x509 -key /dev/stdin -subj /CN=x -days 2", &compressed);
    let error = read(&format!("{certificate}{compressed}")).unwrap_err();
    assert_eq!(error, CredentialError::CompressedPoint);
    assert!(error.is_unsupported());

    let explicit = convert("ecparam -name prime256v1 -genkey -param_enc explicit -noout", "");
    let kind = "ECDSA with explicit curve parameters".to_owned();
    assert_eq!(KeyPair::from_pem(explicit).unwrap_err(), KeyError::Unsupported { kind });
}

fn base64(der: &[u8]) -> String {
    openssl("base64", der)
}

/// From the field, DER and other formats in the place of PEM: <https://github.com/smallstep/cli/issues/1497>
#[test]
fn error_for_foreign_format_names_converting_command() {
    let (certificate, key) = pair(P256);
    let der = openssl_binary("x509 -outform DER", certificate.as_bytes());
    let key_der = openssl_binary("pkey -outform DER", key.as_bytes());
    let pkcs7 = convert("crl2pkcs7 -nocrl -certfile /dev/stdin", &certificate);
    let pkcs7_der = openssl_binary("crl2pkcs7 -nocrl -outform DER -certfile /dev/stdin", certificate.as_bytes());
    let pkcs12 = openssl_binary("pkcs12 -export -passout pass:x", format!("{key}{certificate}").as_bytes());
    let utf16: Vec<u8> = format!("\u{feff}{certificate}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let trusted = convert("x509 -trustout", &certificate);
    let x509 = "openssl x509 -in FILE -out FILE.pem";
    for (content, what, command) in [
        (der.clone(), "a certificate in DER", "openssl x509 -inform DER -in FILE -out FILE.pem"),
        (key_der.clone(), "a private key in DER", "openssl pkey -inform DER -in FILE -out FILE.pem"),
        (pkcs7.into_bytes(), "a PKCS#7 bundle", "openssl pkcs7 -in FILE -print_certs -out FILE.pem"),
        (pkcs7_der, "PKCS#7 in DER", "openssl pkcs7 -inform DER -in FILE -print_certs -out FILE.pem"),
        (pkcs12, "PKCS#12 in DER", "openssl pkcs12 -in FILE -nodes -out FILE.pem"),
        (
            base64(&der).into_bytes(),
            "base64 of a certificate without PEM boundaries",
            "openssl base64 -d -A -in FILE | openssl x509 -inform DER -out FILE.pem",
        ),
        (
            base64(&key_der).replace('\n', "").into_bytes(),
            "base64 of a private key without PEM boundaries",
            "openssl base64 -d -A -in FILE | openssl pkey -inform DER -out FILE.pem",
        ),
        (trusted.into_bytes(), "a certificate in a form that only openssl reads", x509),
        (
            relabel(&certificate, "CERTIFICATE", "X509 CERTIFICATE").into_bytes(),
            "a certificate in a form that only openssl reads",
            x509,
        ),
        (utf16, "text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > FILE.pem"),
    ] {
        let expected = format!("this is {what}; convert it to PEM with `{command}`");
        assert_eq!(Chain::from_pem(&content).unwrap_err().to_string(), expected);
        assert_eq!(Roots::from_pem(&content).unwrap_err().to_string(), expected);
        assert_eq!(KeyPair::from_pem(&content).unwrap_err().to_string(), expected);
    }
    for nothing in ["", "hello", "MIIB", "0\u{82}\u{1}"] {
        assert_eq!(Chain::from_pem(nothing.as_bytes()).unwrap_err(), ChainError::Empty, "{nothing:?}");
    }
}

/// From the field, one damaged certificate that makes a whole CA bundle unusable:
/// <https://github.com/openshift/cluster-network-operator/issues/2141>
#[test]
fn damaged_bundle_keeps_its_good_certificates() {
    let [a, b, c] = [(); 3].map(|()| pair(P256).0);
    let lines = a.lines().count();
    let label = || "CERTIFICATE".to_owned();
    let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (what, bundle, used, skipped) in [
        (
            "not base64",
            format!("{a}{}{b}", c.replacen("MII", "M!I", 1)),
            2,
            PemError::NotBase64 { block: 2, line: lines + 1, label: label() },
        ),
        (
            "half a block",
            format!("{a}{}", half(&b)),
            1,
            PemError::Unclosed { block: 2, line: lines + 1, label: label() },
        ),
        (
            "a header",
            format!("{a}{}{b}", with_header(&c, "\n")),
            2,
            PemError::Headers { block: 2, line: lines + 1, label: label() },
        ),
        (
            "no certificate",
            format!("{a}{not_x509}{b}"),
            2,
            PemError::Unusable {
                block: 2,
                line: lines + 1,
                reason: "it is not valid DER: cut short, damaged, or no certificate at all".into(),
            },
        ),
        (
            "glued boundaries",
            format!("{a}{}{c}{a}", b.trim_end()),
            2,
            PemError::Glued { line: lines + line_of(&b, "-----END CERTIFICATE-----") },
        ),
    ] {
        let roots = Roots::from_pem(bundle.as_bytes()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(roots.store().len(), used, "{what}");
        assert_eq!(roots.skipped(), [skipped], "{what}");
        // The skipped block is not in the PEM that is written.
        assert_eq!(Roots::from_pem(roots.pem().as_bytes()).unwrap().skipped(), [], "{what}");
    }
    let glued = format!("{}{b}", a.trim_end());
    assert!(matches!(Roots::from_pem(glued.as_bytes()), Err(ChainError::Pem(PemError::Glued { .. }))));
    let header = with_header(&a, "\n");
    let error = Roots::from_pem(header.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "PEM block 1 (CERTIFICATE), line 1, has headers; remove the `Name: value` lines");
}

#[test]
fn system_bundle_of_several_megabytes_is_read() {
    let (certificate, _) = pair(P256);
    let mut bundle = String::new();
    while bundle.len() < 3 << 20 {
        writeln!(bundle, "# one more\n{certificate}").unwrap();
    }
    let blocks = bundle.matches("BEGIN").count();
    assert_eq!(Roots::from_pem(bundle.as_bytes()).unwrap().store().len(), blocks);
    let error = Roots::from_pem(&vec![b'\n'; (8 << 20) + 1]).unwrap_err();
    assert!(error.to_string().ends_with("exceed the limit of 8 MiB; is this the right file?"), "{error}");
}

#[test]
fn issued_chain_with_damaged_or_non_certificate_block_is_refused() {
    let (certificate, key) = pair(P256);
    let (issuer, _) = pair(P256);
    let good = format!("{certificate}{issuer}");
    Chain::from_issued(format!("Explained (RFC 7468).\n{good}").as_bytes()).unwrap();
    let crl = relabel(&issuer, "CERTIFICATE", "X509 CRL");
    for (what, answer) in [
        ("a key beside it", format!("{good}{key}")),
        ("another kind of block", format!("{certificate}{crl}")),
        ("headers", format!("{certificate}{}", with_header(&issuer, "\n"))),
        ("half a block", format!("{certificate}{}", half(&issuer))),
        ("not base64", format!("{certificate}{}", issuer.replacen("MII", "M!I", 1))),
        ("not a certificate", format!("{certificate}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ("nothing", String::new()),
    ] {
        let error = Chain::from_issued(answer.as_bytes()).expect_err(what);
        assert!(error.to_string().len() > 20, "{what}: {error}");
    }
}
