//! A node on tokio, with an embedded API server: `cargo run -p perennial-examples --example tokio_node`.

use perennial_examples::tokio_loop;
use perennial_rotation::{Rotator, StoreError};
use perennial_tests::loopback;

#[tokio::main]
async fn main() -> Result<(), StoreError> {
    let server = loopback::serve(perennial_dev::Approval::Auto);
    let node = loopback::node(loopback::Runtime::Other(|_| {}), &server.cluster);
    let rotator = Rotator::new().template(node.template.unwrap()).signer(node.signer.unwrap());
    let (handle, task) = rotator.prepare()?;
    let rotation = tokio::spawn(tokio_loop::run(task));
    let credential = handle.ready().await?;
    println!("serial {}", credential.chain().serial());
    handle.shutdown().await;
    Ok(rotation.await?)
}
