//! `go_verdict` returns for each pair the result that was recorded from kubectl; `.ci/kubectl` compares the records
//! with a real kubectl.

use perennial_pki::{GoVerdict, go_verdict};
use perennial_tests::openssl::openssl;

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";

fn pair(kind: &str) -> (String, String) {
    let key = openssl(&format!("genpkey {kind}"), "");
    let certificate = openssl("req -new -x509 -key /dev/stdin -subj /CN=x -days 2", key.as_bytes());
    (certificate, key)
}

fn verdict(pem: &str) -> String {
    match go_verdict(pem.as_bytes(), pem.as_bytes()) {
        GoVerdict::Loads(_) => "loads".to_owned(),
        GoVerdict::Refuses(why) => format!("refuses: {why}"),
        GoVerdict::Unknown { why, .. } => format!("unknown: {why}"),
    }
}

#[test]
fn go_verdict_equals_recorded_results_of_kubectl() {
    let (certificate, key) = pair(P256);
    let (other_certificate, other_key) = pair(P256);
    let convert = |line: &str| openssl(line, key.as_bytes());
    let compressed = convert("pkey -ec_conv_form compressed");
    let compressed_leaf = openssl("req -new -x509 -key /dev/stdin -subj /CN=x -days 2", compressed.as_bytes());
    let explicit = openssl("ecparam -name prime256v1 -genkey -param_enc explicit -noout", "");
    let encrypted = convert("ec -aes128 -passout pass:x");
    let negative = convert("req -new -x509 -key /dev/stdin -subj /CN=x -days 2 -set_serial -5");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bare = certificate.trim_end();
    for (what, pem, expected) in [
        ("a good pair", format!("{certificate}{key}"), "loads"),
        ("the key first", format!("{key}{certificate}"), "loads"),
        ("no public key", format!("{certificate}{}", convert("ec -no_public")), "loads"),
        ("a compressed point in the key", format!("{certificate}{compressed}"), "loads"),
        ("another label", format!("{certificate}{}", key.replace("PRIVATE", "MY PRIVATE")), "loads"),
        ("headers", format!("{}{key}", certificate.replacen("-----\n", "-----\nName: value\n", 1)), "loads"),
        ("half a block behind it", format!("{certificate}{key}{}", &certificate[..200]), "loads"),
        ("garbage behind the leaf", format!("{certificate}{garbage}{key}"), "loads"),
        ("glued issuers", format!("{certificate}{bare}{certificate}{key}"), "loads"),
        ("garbage before the leaf", format!("{garbage}{certificate}{key}"), "refuses: Go cannot read the certificate"),
        ("certificate and key glued", format!("{bare}{key}"), "refuses: Go finds no CERTIFICATE block"),
        ("a byte order mark", format!("\u{feff}{certificate}{key}"), "refuses: Go finds no CERTIFICATE block"),
        ("a byte order mark before the key", format!("\u{feff}{key}{certificate}"), "refuses: Go finds no PRIVATE KEY"),
        ("one line", format!("{}\n{key}", bare.replace('\n', "")), "refuses: Go finds no CERTIFICATE block"),
        ("indented", format!(" {}\n{key}", bare.replace('\n', "\n ")), "refuses: Go finds no CERTIFICATE block"),
        (
            "openssl's old label",
            format!("{}{key}", certificate.replace("CERTIFICATE", "X509 CERTIFICATE")),
            "refuses: Go finds no CERTIFICATE block",
        ),
        ("a compressed leaf", format!("{compressed_leaf}{compressed}"), "refuses: Go cannot read the certificate: its"),
        ("a negative serial", format!("{negative}{key}"), "refuses: Go cannot read the certificate: its serial number"),
        ("another key", format!("{certificate}{other_key}"), "refuses: the first certificate (serial"),
        ("another certificate", format!("{other_certificate}{key}"), "refuses: the first certificate (serial"),
        ("an encrypted key", format!("{certificate}{encrypted}"), "refuses: the private key is encrypted"),
        ("an encrypted key first", format!("{certificate}{encrypted}{key}"), "refuses: the private key is encrypted"),
        ("explicit parameters", format!("{certificate}{explicit}"), "refuses: Go cannot read the private key"),
        ("no key", certificate.clone(), "refuses: Go finds no PRIVATE KEY block"),
        ("nothing", String::new(), "refuses: Go finds no CERTIFICATE block"),
    ] {
        let verdict = verdict(&pem);
        assert!(verdict.starts_with(expected), "{what}: {verdict}");
    }
}

#[test]
fn go_verdict_is_unknown_for_keys_that_only_go_reads() {
    for (kind, expected) in [
        #[cfg(not(feature = "aws-lc-rs"))]
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "unknown: ECDSA keys on P-521"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-224", "unknown: ECDSA keys on P-224"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "unknown: RSA keys of 1024 bits"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "refuses: Go cannot read"),
        ("-algorithm ED448", "refuses: Go cannot read"),
        ("-algorithm RSA-PSS", "refuses: Go cannot read"),
        ("-algorithm ED25519", "loads"),
    ] {
        let (certificate, key) = pair(kind);
        let verdict = verdict(&format!("{certificate}{key}"));
        assert!(verdict.starts_with(expected), "{kind}: {verdict}");
    }
}
