//! Writes a pair for each malicious certificate ([`table`]) to `DIR/NAME.pem`, and prints a line for each pair:
//! `NAME<TAB>GO<TAB>OPENSSL`. `GO` (true or false) is whether Go must accept the pair, and `OPENSSL` is whether openssl
//! must accept the certificate. `.ci/kubectl` checks both programs by these lines.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::UnixTime;
use perennial_pki::{KeyAlgorithm, KeyPair};
use perennial_tests::malicious::table;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: malicious DIR")?);
    let now: Duration = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now = UnixTime::from_secs(now.as_secs().try_into()?);
    let (issuer, key) = (KeyPair::generate(KeyAlgorithm::EcdsaP256)?, KeyPair::generate(KeyAlgorithm::EcdsaP256)?);
    // The name `CN=ca`.
    let issuer_name = [0x30, 13, 0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 3, 0x13, 2, b'c', b'a'];
    for row in table() {
        let certificate = STANDARD.encode(row.forge(&issuer, &issuer_name, key.public_key_der(), now));
        let pem = format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n{}", *key.to_pem());
        let name = row.name.replace(' ', "-");
        std::fs::write(directory.join(format!("{name}.pem")), pem)?;
        println!("{name}\t{}\t{}", row.go, row.openssl);
    }
    Ok(())
}
