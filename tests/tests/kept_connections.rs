//! Many submissions with one identity over sockets, to an API server that counts its connections.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use perennial_dev::Approval;
use perennial_kubernetes::client::{Issuance, Limits};
use perennial_kubernetes::cluster::Cluster;
use perennial_rotation::{Identity, Token};
use perennial_std::Cancel;
use perennial_tests::loopback::{Runtime, TOKEN, on_both, serve};
use perennial_tests::simulation::{KUBELET_CLIENT, desired_csr, key};

/// Submissions that run at the same time.
const CAP: usize = 8;
const CERTIFICATES: usize = 200;

/// Passes connections on to `server`, and counts them. Returns the address to connect to, and the count.
fn counted(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = count.clone();
    thread::spawn(move || {
        for client in listener.incoming().map(Result::unwrap) {
            counter.fetch_add(1, Ordering::SeqCst);
            let server = TcpStream::connect(server).unwrap();
            [&client, &server].into_iter().for_each(|stream| stream.set_nodelay(true).unwrap());
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || {
                    // Either side may reset its connection.
                    drop(io::copy(&mut from, &mut to));
                    drop(to.shutdown(Shutdown::Both));
                });
            }
        }
    });
    (address, count)
}

fn submission(index: usize, cluster: &Arc<Cluster>) -> Issuance {
    let csr = desired_csr(&key(), KUBELET_CLIENT);
    let identity = Identity::Token(Token::new(TOKEN).unwrap());
    Issuance::new(csr, cluster.clone(), identity, Limits::default(), index as u64).sharing_connections()
}

#[test]
fn two_hundred_certificates_of_one_identity_use_few_connections() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let (address, connections) = counted(server.handle.address());
        let cluster = Cluster::from_url(&format!("https://{address}")).unwrap();
        let cluster = cluster.with_roots(server.cluster.roots().unwrap().clone()).with_kept_connections();
        let (cluster, next) = (Arc::new(cluster), AtomicUsize::new(0));
        let indices = || Some(next.fetch_add(1, Ordering::SeqCst)).filter(|index| *index < CERTIFICATES);
        let requests = AtomicUsize::new(0);
        let count = |issued: perennial_rotation::Issued| requests.fetch_add(issued.requests as usize, Ordering::SeqCst);
        match runtime {
            Runtime::Std => thread::scope(|scope| {
                for _ in 0..CAP {
                    scope.spawn(|| {
                        while let Some(index) = indices() {
                            let driven = perennial_std::drive(submission(index, &cluster), &Cancel::default(), |_| {});
                            count(driven.unwrap().unwrap());
                        }
                    });
                }
            }),
            _ => {
                let executor = smol::LocalExecutor::new();
                let worker = || async {
                    while let Some(index) = indices() {
                        count(perennial_smol::drive(submission(index, &cluster), |_| {}).await.unwrap());
                    }
                };
                let workers: Vec<_> = (0..CAP).map(|_| executor.spawn(worker())).collect();
                smol::block_on(executor.run(async {
                    for worker in workers {
                        worker.await;
                    }
                }));
            }
        }
        let (connections, requests) = (connections.load(Ordering::SeqCst), requests.load(Ordering::SeqCst));
        assert_eq!(server.csr_names().len(), CERTIFICATES);
        assert!(connections <= CAP, "{connections} connections, {requests} requests on {runtime:?}");
        assert_eq!(requests, 2 * CERTIFICATES, "{runtime:?}");
    });
}
