//! Measures an embedded API server, in a process of its own, with a thousand clients: `cargo bench -p perennial-tests`.
//!
//! First, each client has a pending request and an open watch, over TLS connections of its own. Then a thousand clients
//! request large lists or watches, and read nothing. Clients and server share the machine, so the rates are lower
//! bounds.

mod clients;
mod process;

use std::time::{Duration, Instant};

use clients::{Client, Crowd};
use perennial_tests::bench::sized;
use process::Server;

/// Objects of a server that has objects from the start.
const OBJECTS: usize = 1000;
const ONE: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests/request-500";
const ALL: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const PAGE: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests?limit=100";

fn main() {
    match std::env::var(process::SERVE) {
        Ok(what) => process::serve(&what),
        Err(_) => {
            nodes();
            readers();
            stuck();
        }
    }
}

/// Measures two rates with a thousand nodes. First, all nodes submit their requests at once: submissions per second.
/// Then an administrator approves the requests one by one: certificates received per second.
fn nodes() {
    let clients = client_count();
    println!("{clients} clients, each with a pending request and an open watch");
    let mut server = Server::start("empty");
    let empty = server.memory();
    let mut crowd = Crowd::new(&server, clients);
    let begun = Instant::now();
    crowd.submit();
    rate("connected, created, watching", clients, begun.elapsed());
    let waiting = server.memory();
    let each = (waiting - empty) / clients;
    println!("  {:<40} {waiting:>7} KiB, {each} for each client; {empty} before", "resident while they wait");
    let names = server.command("names");
    let mut administrator = Client::connect(&server);
    let begun = Instant::now();
    let approval = std::thread::spawn(move || names.split(' ').for_each(|name| administrator.approve(name)));
    crowd.receive();
    approval.join().unwrap();
    rate("approved one by one, signed, received", clients, begun.elapsed());
    peak(&mut server);
}

/// Measures the requests per second of one connection to a server with a thousand objects.
fn readers() {
    println!("one client that reads, {OBJECTS} objects");
    let mut server = Server::start("full");
    let mut client = Client::connect(&server);
    for (what, target, times) in
        [("GET of one object", ONE, 5000), ("LIST of all", ALL, 50), ("LIST of a page of 100", PAGE, 500)]
    {
        let (times, begun) = (sized(times, 2), Instant::now());
        (0..times).for_each(|_| client.get(target));
        rate(what, times, begun.elapsed());
    }
    peak(&mut server);
}

/// Measures the latency of one client twice: first alone, then beside a thousand clients, each of which has requested a
/// LIST or a WATCH and reads nothing. During the second measurement, every object changes twenty times.
fn stuck() {
    let clients = client_count();
    println!("{clients} clients that read nothing, each a LIST or a WATCH of {OBJECTS} objects of 33 KiB");
    let mut server = Server::start("large");
    println!("  {:<40} {:>7} KiB, the objects among it", "resident before", server.memory());
    let mut client = Client::connect(&server);
    let calm = client.latencies(ONE, sized(2000, 10));
    let held: Vec<Client> = (0..clients).map(|index| clients::stuck(&server, index)).collect();
    println!("  {:<40} {:>7} KiB", "resident with them", server.memory());
    let reader = std::thread::spawn(move || client.latencies(ONE, sized(20_000, 10)));
    server.command("churn");
    let beset = reader.join().unwrap();
    drop(held);
    for (what, per_mille) in [("median", 500), ("99 %", 990)] {
        let at = |sorted: &[Duration]| sorted[sorted.len() * per_mille / 1000];
        let (calm, beset) = (at(&calm), at(&beset));
        let ratio = beset.as_secs_f64() / calm.as_secs_f64();
        println!(
            "  {:<40} {calm:>7.1?} alone, {beset:.1?} among them: {ratio:.1} times",
            format!("GET by a reader, {what}")
        );
    }
    peak(&mut server);
}

/// Number of clients beside the one that measures.
fn client_count() -> usize {
    sized(1000, 20)
}

fn rate(what: &str, count: usize, took: Duration) {
    println!("  {what:<40} {:>7.0}/s ({count} in {took:.2?})", count as f64 / took.as_secs_f64());
}

fn peak(server: &mut Server) {
    println!("  {:<40} {:>7} KiB\n", "most ever resident", server.peak());
}
