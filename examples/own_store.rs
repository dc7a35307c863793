//! A store of the program's own: keeps the credential of a node, its key and the record of the last request in a SQLite
//! database. Run `cargo run -p perennial-examples --example own_store`.
//!
//! To copy: `Sqlite`, with your own database. A store with more structure than keys and values implements `Store`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_dev::TestCluster;
use perennial_examples::{review, witness::Witness};
use perennial_std::tls::client_config;
use perennial_std::{KeyValue, Roots, Rotator, StoreError, Template};
use rusqlite::{Connection, OptionalExtension as _, params};
use zeroize::Zeroizing;

/// A database with a table of keys and values.
#[derive(Debug)]
struct Sqlite(Mutex<Connection>);

impl Sqlite {
    fn open(path: &Path) -> Result<Self, StoreError> {
        // The database holds keys: only its owner may read it.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let database = Connection::open(path)?;
        database.execute("CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, value BLOB)", [])?;
        Ok(Self(Mutex::new(database)))
    }
}

impl KeyValue for Sqlite {
    fn get(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let database = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = database.query_row("SELECT value FROM item WHERE key = ?", [key], |row| row.get(0)).optional()?;
        Ok(value.map(Zeroizing::new))
    }

    fn put(&self, key: &'static str, value: &[u8]) -> Result<(), StoreError> {
        let database = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        database.execute("INSERT OR REPLACE INTO item VALUES (?, ?)", params![key, value])?;
        Ok(())
    }
}

/// A rotator for node `worker-1` that keeps the credential in the database at `path`.
fn rotator(cluster: &TestCluster, path: &Path) -> Result<Rotator, StoreError> {
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    Ok(rotator.store(Sqlite::open(path)?))
}

fn main() -> Result<(), StoreError> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("node.db");
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let handle = perennial_std::start(rotator(&cluster, &path)?)?;
    handle.ready().within(Duration::from_secs(30))?;
    let mut witness = Witness::of([("client", &handle)]);
    let client = Arc::new(client_config(&handle, roots));
    while witness.goes_on() {
        witness.record(review::ask(cluster.url(), &client));
    }
    handle.shutdown().wait();

    // A second start, without the cluster: the certificate comes from the database.
    let stored = perennial_std::start(Rotator::new().store(Sqlite::open(&path)?))?;
    let kept = stored.credential().ok_or("the database has no certificate")?;
    println!("in the database: serial {}", kept.chain().serial());
    println!("{}", witness.verdict()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use perennial_dev::{Approval, ClusterSetup, Decision, Options};
    use perennial_tests::loopback::{BOUND, issued, on_both, start, waits_for_approval};

    use super::*;

    #[test]
    fn sqlite_store_continues_pending_request_after_restart() {
        on_both(|runtime| {
            let options = Options { approval: Approval::Manual, ..Options::default() };
            let cluster = TestCluster::start_with(ClusterSetup { options, ..ClusterSetup::default() }).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("node.db");
            let begin = || start(runtime, rotator(&cluster, &path).unwrap());
            let handle = begin();
            let name = waits_for_approval(&handle);
            handle.shutdown().wait();

            let handle = begin();
            assert_eq!(waits_for_approval(&handle), name);
            cluster.decide(&name, Decision::Approve).unwrap();
            let first = issued(&handle, 1);
            let names: Vec<String> = cluster.requests().into_iter().map(|csr| csr.metadata.name).collect();
            assert_eq!(names, [name], "the request from before the restart");
            handle.shutdown().wait();

            let handle = begin();
            assert_eq!(handle.ready().within(BOUND).unwrap().chain(), first.chain());
            handle.shutdown().wait();
        });
    }
}
