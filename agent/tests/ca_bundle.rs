//! CA bundles with a damaged certificate, as a tool that joins files may write them: the other certificates are used.

use std::fs;

use crate::support::{Ca, Signer, perennial, run_arguments};
use perennial_pki::Roots;
use tempfile::TempDir;

#[test]
fn good_certificates_of_damaged_ca_bundle_are_used_with_warnings() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let ca = fs::read_to_string(directory.join("signer/ca.crt")).unwrap();
    let other = Ca::new().authority.certificate_pem().to_owned();
    let glued = format!("{ca}{}{other}", other.trim_end());
    assert_eq!(Roots::from_pem(glued.as_bytes()).unwrap().skipped().len(), 1);
    fs::write(directory.join("glued.pem"), &glued).unwrap();
    let half = format!("{ca}{}", &other[..other.len() / 2]);
    fs::write(directory.join("half.pem"), half).unwrap();
    let bootstrap = fs::read_to_string(directory.join("signer/bootstrap.kubeconfig")).unwrap();
    let data = bootstrap.lines().find(|line| line.contains("certificate-authority-data")).unwrap();
    let indent = &data[..data.len() - data.trim_start().len()];
    let by_file = bootstrap.replace(data, &format!("{indent}certificate-authority: {}/half.pem", directory.display()));
    fs::write(directory.join("signer/bootstrap.kubeconfig"), by_file).unwrap();

    let once = perennial(directory, &run_arguments(&["--once", "--issuer-ca-file", "glued.pem"]));
    assert_eq!(once.code, Some(0), "{once:?}");
    let lines = ca.lines().count();
    for expected in [
        format!(
            "CA bundle glued.pem is damaged: line {} holds a PEM boundary and something else",
            lines + other.lines().count()
        ),
        format!(
            "half.pem is damaged: PEM block 2 (CERTIFICATE), line {}, has no `-----END CERTIFICATE-----` line",
            lines + 1
        ),
    ] {
        assert!(once.stderr.contains(&expected), "{expected}\n{}", once.stderr);
    }
}
