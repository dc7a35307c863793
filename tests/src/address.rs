//! Addresses for servers that start late, or again at the same address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};

/// A loopback address without a listener. No other test takes it meanwhile, as may happen to a free port of 127.0.0.1:
/// each call returns another IP address. Systems other than Linux have 127.0.0.1 alone.
///
/// # Panics
/// The system refuses a socket.
pub fn unused() -> SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | high & 63, low, CALLS.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((ip, 0)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    listener.and_then(|listener| listener.local_addr()).expect("a free port")
}
