//! [`Connections`]: idle connections to one API server, which submissions hand to each other.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::Instant;
use perennial_pki::Roots;
use perennial_rotation::{Identity, KeptConnection, Token};

use super::exchange::Exchange;

/// The longest time that a connection is kept: much shorter than the time after which servers and proxies close idle
/// connections.
const LONGEST: Duration = Duration::from_secs(5);
/// The most connections that are kept. A further one is closed.
const MOST: usize = 64;

/// Idle connections to one API server.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Vec<Idle>>);

/// An idle connection: its TLS state, and its TCP connection, which the driver has set aside.
#[derive(derive_more::Debug)]
#[debug("Idle({identity:?}, until {until:?})")]
struct Idle {
    exchange: Exchange,
    stream: KeptConnection,
    identity: Identity,
    until: Instant,
}

impl Connections {
    /// Keeps a connection over which `identity` authenticated.
    pub(crate) fn put(&self, exchange: Exchange, stream: KeptConnection, identity: Identity, now: Instant) {
        let mut idle = self.idle();
        if idle.len() < MOST {
            idle.push(Idle { exchange, stream, identity, until: now.after(LONGEST) });
        }
    }

    /// Takes out the connection that was kept last, of those with this identity and these CAs.
    pub(crate) fn take(
        &self,
        identity: &Identity,
        roots: Option<&Roots>,
        now: Instant,
    ) -> Option<(Exchange, KeptConnection)> {
        self.close(now);
        let mut idle = self.idle();
        let fits = |idle: &Idle| is_same(&idle.identity, identity) && idle.exchange.roots() == roots;
        let Idle { exchange, stream, .. } = idle.iter().rposition(fits).map(|at| idle.remove(at))?;
        Some((exchange, stream))
    }

    /// Closes the connections of an identity that the server has refused.
    pub(crate) fn forget(&self, identity: &Identity) {
        self.idle().retain(|idle| !is_same(&idle.identity, identity));
    }

    /// Closes the connections whose time is over.
    pub(crate) fn close(&self, now: Instant) {
        self.idle().retain(|idle| now < idle.until);
    }

    /// When the time of the connection that was kept last is over; `None` if no connection is kept.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.idle().iter().map(|idle| idle.until).max()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if both identities present the same certificate and the same token.
pub(crate) fn is_same(one: &Identity, other: &Identity) -> bool {
    let same_token = one.token().map(Token::reveal) == other.token().map(Token::reveal);
    same_token && one.certificate() == other.certificate()
}
