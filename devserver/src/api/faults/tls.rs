//! Server certificates that a client must reject.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use perennial::UnixTime;

use super::fault::ConnectionFault;
use crate::Api;
use crate::Tls;
use crate::authority::{Authority, AuthorityError};

const HOUR: Duration = Duration::from_secs(3600);

/// A TLS configuration like `tls`, but with a server certificate that has the fault. `None` if the fault concerns no
/// certificate, or the certificate cannot be issued.
pub(crate) fn faulty_tls(fault: ConnectionFault, api: &mut Api, tls: &Tls, now: UnixTime) -> Option<Tls> {
    let (names, from, foreign): (&[&str], _, _) = match fault {
        ConnectionFault::OtherName => (&["other.example"], now, false),
        ConnectionFault::OtherAuthority => (&["localhost"], now, true),
        ConnectionFault::Expired => (&["localhost"], now.before(2 * HOUR), false),
        _ => return None,
    };
    let addresses: &[IpAddr] = if names == ["localhost"] { &[IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { &[] };
    let Api { authority, random, .. } = api;
    let mut serving = || -> Result<_, AuthorityError> {
        let other = if foreign { Some(Authority::generate(random, now, 24 * HOUR)?) } else { None };
        other.as_ref().unwrap_or(authority).server_credential(names, addresses, random, from, HOUR)
    };
    let serving = serving().ok()?;
    tls.serving(authority, &serving).ok()
}
