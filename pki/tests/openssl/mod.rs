//! Keys and certificates made with the `openssl` command, for kinds that our own libraries do not make.
#![allow(dead_code, unreachable_pub)]

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs `openssl` with the arguments in `line`, separated by spaces, and `input` on its standard input.
pub fn openssl(line: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(line.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the openssl command is installed");
    // A failed write shows in what openssl reports about its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).unwrap()
}

/// A key and a certificate for it, signed by itself with `digest`. Key first.
pub fn self_signed(key: &str, digest: &str, more: &str) -> String {
    let key = text(openssl(&format!("genpkey {key}"), b""));
    let line = format!("req -new -x509 -key /dev/stdin -subj /CN=of-openssl -days 2 {digest} {more}");
    let certificate = text(openssl(line.trim_end(), key.as_bytes()));
    format!("{key}{certificate}")
}
