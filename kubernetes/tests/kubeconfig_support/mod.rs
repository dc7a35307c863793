//! Kubeconfig files for tests, and the files that they name.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial_kubernetes::kubeconfig::{Endpoint, Kubeconfig, KubeconfigError};
use perennial_rotation::Identity;

pub(crate) const PATH: &str = "/etc/x/kubeconfig";

/// A file system in memory.
#[derive(Default)]
pub(crate) struct Files(HashMap<PathBuf, Vec<u8>>);

impl Files {
    pub(crate) fn with(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.0.insert(path.into(), content.as_ref().to_vec());
        self
    }

    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::from_raw_os_error(2))
    }
}

pub(crate) fn parse(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    Kubeconfig::parse(Path::new(PATH), text)
}

pub(crate) fn endpoint(text: &str, files: &Files) -> Result<Endpoint, KubeconfigError> {
    parse(text)?.select(None)?.cluster(&mut |path| files.read(path))
}

pub(crate) fn identity(text: &str, files: &Files) -> Result<Identity, KubeconfigError> {
    parse(text)?.select(None)?.identity(&mut |path| files.read(path))
}

/// A kubeconfig with the fields `cluster` of its cluster in line 5, and the fields `user` of its user in line 8.
pub(crate) fn config(cluster: &str, user: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Config
clusters:
- name: prod
  cluster: {{{cluster}}}
users:
- name: node
  user: {{{user}}}
contexts:
- name: main
  context: {{cluster: prod, user: node}}
current-context: main
"
    )
}

pub(crate) fn with_user(user: &str) -> String {
    config("server: 'https://10.0.0.1:6443'", user)
}

#[track_caller]
pub(crate) fn refused<T>(result: Result<T, KubeconfigError>, message: &str) {
    let error = result.err().expect("refused");
    assert_eq!(error.to_string(), message);
}

#[track_caller]
pub(crate) fn token(credentials: Result<Identity, KubeconfigError>) -> String {
    match credentials.expect("credentials") {
        Identity::Token(token) => token.reveal().to_owned(),
        other @ (Identity::Anonymous | Identity::Certificate(_) | Identity::CertificateAndToken(..)) => {
            panic!("{other:?}")
        }
    }
}

#[track_caller]
pub(crate) fn certificate_pem(credentials: Result<Identity, KubeconfigError>) -> String {
    match credentials.expect("credentials") {
        Identity::Certificate(credential) => credential.chain().pem().to_owned(),
        other @ (Identity::Anonymous | Identity::Token(_) | Identity::CertificateAndToken(..)) => {
            panic!("{other:?}")
        }
    }
}

pub(crate) fn base64_in_lines(pem: &str) -> String {
    let text = STANDARD.encode(pem);
    let mut lines = String::new();
    for line in text.as_bytes().chunks(64) {
        writeln!(lines, "      {}", std::str::from_utf8(line).expect("ASCII")).expect("a String");
    }
    lines
}

/// A self-signed CA certificate of `CN=kubernetes`, valid for a hundred years.
pub(crate) const CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBgjCCASegAwIBAgIUWAFGbnsck/9DO3NjoPVvrPxdWtwwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjIxOTAxMzVaGA8yMTI2MTAy
OTE5MDEzNVowFTETMBEGA1UEAwwKa3ViZXJuZXRlczBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABDMOOvUy/hjU7YGAlAuo73HcorFk7kz0AKUXLWwIN1N62+223PNv
wFQ7nE26rD1OhotfPZNWcwy17ag1kZkE8eSjUzBRMB0GA1UdDgQWBBSLe/gU0qP3
D2mtB9Vn4HE7fCtxfTAfBgNVHSMEGDAWgBSLe/gU0qP3D2mtB9Vn4HE7fCtxfTAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQCovBoBboLQra7+z186
mAYctocBguY3/13VrUIeSM9HDgIhAJj5JKtFkUOGMtXJePPPq7fwfsCdw9GtGDEC
QwNTPHVT
-----END CERTIFICATE-----
";

/// The certificate of `O=system:nodes, CN=system:node:n1`, signed by [`CA`].
pub(crate) const NODE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBsTCCAVagAwIBAgIUbvl2UY8m2r5A28SxQLccE9RhaVIwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjIxOTAxMzVaGA8yMTI2MTAy
OTE5MDEzNVowMDEVMBMGA1UECgwMc3lzdGVtOm5vZGVzMRcwFQYDVQQDDA5zeXN0
ZW06bm9kZTpuMTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHRKdxch7mNNy82f
Lth3d5BC5Lq7/jWfo1Y8fAjqDgoNbgBF4u2CBOjgVMHBBOzGhSIu+cWiGb2vBdGt
WDcN/HSjZzBlMBMGA1UdJQQMMAoGCCsGAQUFBwMCMA4GA1UdDwEB/wQEAwIHgDAd
BgNVHQ4EFgQUTJ5iVJzLo2HPo9pAZFKpsa/I4DcwHwYDVR0jBBgwFoAUi3v4FNKj
9w9prQfVZ+BxO3wrcX0wCgYIKoZIzj0EAwIDSQAwRgIhANAmFjFA8FMucfePvmLS
OeYSGmuUNZl6+xDejh++h7kbAiEAh1fUm9cX4b0gXXZ02BhAIAc+Mht335z83ggL
pxT4tfA=
-----END CERTIFICATE-----
";
/// The key of [`NODE`].
pub(crate) const NODE_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2CvdvVDG2dlcRxz9
5iXmXW/oOV0akOFjQfuf2uiNZMWhRANCAAR0SncXIe5jTcvNny7Yd3eQQuS6u/41
n6NWPHwI6g4KDW4AReLtggTo4FTBwQTsxoUiLvnFohm9rwXRrVg3Dfx0
-----END PRIVATE KEY-----
";
