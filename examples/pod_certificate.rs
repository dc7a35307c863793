//! The certificate of a pod, which kubelet writes as one file with the key and the chain: the projection
//! `podCertificate`. Here the example plays kubelet, with rotations of its own.
//! Run `cargo run -p perennial-examples --example pod_certificate`.
//!
//! To copy: the lines from `Pod:` to the next empty line. The program requests no certificate: it uses the pair that
//! kubelet has written last.

use std::error::Error;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use perennial_dev::TestCluster;
use perennial_examples::{greeting, witness::Witness};
use perennial_std::tls::{client_config, mutual_server_config};
use perennial_std::{Credential, FileCredential, Roots, Rotator, Template, Usage};

const BUNDLE: &str = "credentialbundle.pem";

/// Puts this pair into the volume as kubelet does: into a new directory, to which the link `..data` then leads.
fn project(volume: &Path, pair: &Credential) -> io::Result<()> {
    let generation = format!("..{}", pair.chain().serial());
    fs::create_dir(volume.join(&generation))?;
    let bundle = format!("{}{}", *pair.key().to_pem(), pair.chain().pem());
    fs::write(volume.join(&generation).join(BUNDLE), bundle)?;
    let before = fs::read_link(volume.join("..data"));
    symlink(&generation, volume.join("..data_tmp"))?;
    fs::rename(volume.join("..data_tmp"), volume.join("..data"))?;
    before.map_or(Ok(()), |before| fs::remove_dir_all(volume.join(before)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (cluster, volume) = (TestCluster::start()?, tempfile::tempdir()?);
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let issue = |template, usage| {
        perennial_std::start(Rotator::new().template(template).signer(cluster.signer("example.com/mesh", usage)))
    };
    let kubelet = issue(Template::new("orders").with_dns_names(["localhost"]), Usage::ServerAuth)?;
    let client = issue(Template::new("billing"), Usage::ClientAuth)?;
    client.ready().within(Duration::from_secs(30))?;
    project(volume.path(), &*kubelet.ready().within(Duration::from_secs(30))?)?;
    symlink(Path::new("..data").join(BUNDLE), volume.path().join(BUNDLE))?;
    let mut witness = Witness::of([("server", &kubelet), ("client", &client)]);
    let (mut issued, directory) = (kubelet.rotations(), volume.path().to_owned());
    thread::spawn(move || {
        while let Some(rotated) = issued.recv().wait() {
            project(&directory, &rotated.new).unwrap_or_else(|error| eprintln!("cannot write the bundle: {error}"));
        }
    });

    // Pod: reads the file every second; every five seconds by default.
    let files = FileCredential::open_bundle(volume.path().join(BUNDLE))?.every(Duration::from_secs(1));
    let address = greeting::serve(mutual_server_config(&files, roots.clone()))?;

    let mut switched = perennial_std::watch(&files)?;
    let client = Arc::new(client_config(&client, roots));
    while witness.goes_on() {
        witness.record(greeting::call(address, "localhost", &client));
        if let Some(rotated) = switched.try_recv() {
            println!("the pod uses serial {}", rotated.new.chain().serial());
        }
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
