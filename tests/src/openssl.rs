//! Makes keys and certificates with the `openssl` command, for kinds that our own libraries do not make.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs `openssl` with the arguments in `line`, separated by spaces, and `input` on its standard input. Returns the
/// output of the command, which must be text.
///
/// # Panics
/// The command is not installed, or fails.
pub fn openssl(line: &str, input: impl AsRef<[u8]>) -> String {
    String::from_utf8(openssl_binary(line, input)).unwrap()
}

/// Runs `openssl` with the arguments in `line`, separated by spaces, and `input` on its standard input. Returns the
/// output of the command, which may be binary.
///
/// # Panics
/// The command is not installed, or fails.
pub fn openssl_binary(line: &str, input: impl AsRef<[u8]>) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(line.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the openssl command is installed");
    // A failed write shows in what openssl reports about its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Makes a key with the arguments `key` of `openssl genpkey`. Makes a self-signed certificate for that key with the
/// digest option `digest` and the further arguments `more`. Returns the PEM of the key, then of the certificate.
pub fn self_signed(key: &str, digest: &str, more: &str) -> String {
    let key = openssl(&format!("genpkey {key}"), "");
    let line = format!("req -new -x509 -key /dev/stdin -subj /CN=of-openssl -days 2 {digest} {more}");
    let certificate = openssl(line.trim_end(), &key);
    format!("{key}{certificate}")
}
