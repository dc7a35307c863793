//! A session with a new token of SoftHSM in a temporary directory.

use std::error::Error;
use std::process::{self, Command};
use std::{env, fs};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::{Session, UserType};

const LIBRARY: &str = "/usr/lib/softhsm/libsofthsm2.so";
const CONFIG: &str = "SOFTHSM2_CONF";

/// Logs in to the token. SoftHSM finds the token by an environment variable. If the variable is not set, this function
/// creates a token, runs the program again with the variable set, and exits when that run has ended.
pub(crate) fn open() -> Result<Session, Box<dyn Error>> {
    if env::var_os(CONFIG).is_none() {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("softhsm2.conf");
        fs::write(&config, format!("directories.tokendir = {}", directory.path().display()))?;
        let init = ["--init-token", "--free", "--label=node", "--pin=1234", "--so-pin=1234"];
        let made = Command::new("softhsm2-util").args(init).env(CONFIG, &config).output();
        let made = made.map_err(|error| format!("softhsm2-util: {error}; install softhsm2"))?;
        if !made.status.success() {
            return Err(format!("softhsm2-util: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let ended = Command::new(env::current_exe()?).env(CONFIG, &config).status()?;
        // Before the exit, which runs no destructors.
        directory.close()?;
        process::exit(ended.code().unwrap_or(1));
    }
    let library = Pkcs11::new(LIBRARY).map_err(|error| format!("{LIBRARY}: {error}; install softhsm2"))?;
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slot = library.get_slots_with_initialized_token()?.first().copied().ok_or("there is no token")?;
    let session = library.open_rw_session(slot)?;
    session.login(UserType::User, Some(&"1234".into()))?;
    Ok(session)
}
