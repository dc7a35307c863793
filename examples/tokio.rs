//! A node on tokio that gets a certificate from an embedded API server. Run
//! `cargo run -p perennial-examples --example tokio`.

use std::error::Error;

use perennial::Template;
use perennial_dev::TestCluster;
use perennial_examples::tokio_loop;
use perennial_rotation::Rotator;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let (handle, task) = rotator.prepare()?;
    let rotation = tokio::spawn(tokio_loop::run(task));
    let credential = handle.ready().await?;
    println!("serial {}", credential.chain().serial());
    handle.shutdown().await;
    Ok(rotation.await?)
}
