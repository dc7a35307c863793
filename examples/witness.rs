//! [`Witness`]: what the other side of an example's connections sees while certificates rotate.

use std::error::Error;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial_pki::{Credential, sha256};
use perennial_rotation::{Handle, Rotations};
use rustls::pki_types::CertificateDer;

/// Rotations of each certificate that an example waits for.
const ROTATIONS: usize = 2;
/// Time limit for all rotations of an example. A rotation takes a second or two, since the policy leaves a second
/// between requests.
const BOUND: Duration = Duration::from_secs(60);

/// Rotates each certificate of an example as soon as the other side has seen the current one. Counts the rotations, the
/// certificates that the other side saw, and the calls that failed.
///
/// ```no_run
/// # use perennial_examples::witness::Witness;
/// # use std::error::Error;
/// # fn call() -> Result<[String; 1], std::io::Error> { Ok([String::new()]) }
/// # fn example(handle: perennial_rotation::Handle) -> Result<(), Box<dyn Error>> {
/// let mut witness = Witness::of([("client", &handle)]);
/// while witness.goes_on() {
///     witness.record(call()); // the fingerprint of the certificate that the server saw
/// }
/// println!("{}", witness.verdict()?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Witness<const N: usize> {
    certificates: [Watched; N],
    calls: usize,
    dropped: usize,
    begun: Instant,
}

/// A certificate that rotates.
#[derive(Debug)]
struct Watched {
    name: &'static str,
    handle: Handle,
    rotations: Rotations,
    rotated: usize,
    /// Fingerprints of the certificates that the other side saw while they were current, oldest first.
    seen: Vec<String>,
}

impl<const N: usize> Witness<N> {
    /// Begins to count, from the current certificates of these handles on. Each has a name for the output.
    pub fn of(certificates: [(&'static str, &Handle); N]) -> Self {
        let certificates = certificates.map(|(name, handle)| Watched {
            name,
            handle: handle.clone(),
            rotations: handle.rotations(),
            rotated: 0,
            seen: Vec::new(),
        });
        Self { certificates, calls: 0, dropped: 0, begun: Instant::now() }
    }

    /// True until the other side has seen two rotations of each certificate, or a minute has passed.
    pub fn goes_on(&self) -> bool {
        let complete = self.certificates.iter().all(|watched| watched.seen.len() > ROTATIONS);
        !complete && self.begun.elapsed() < BOUND
    }

    /// Records a call: for each certificate, the [`fingerprint`] that the other side saw, or the error of a call that
    /// failed.
    pub fn record(&mut self, call: Result<[String; N], impl Display>) {
        self.calls += 1;
        match call {
            Ok(seen) => self.certificates.iter_mut().zip(seen).for_each(|(watched, seen)| watched.saw(seen)),
            Err(error) => {
                self.dropped += 1;
                println!("call {} failed: {error}", self.calls);
            }
        }
    }

    /// The last line of an example, such as `rotated: 4 seen by the other side: 4 dropped: 0`.
    ///
    /// # Errors
    /// [`Unproven`]: the result differs from what every example has to show.
    pub fn verdict(&self) -> Result<Verdict, Unproven> {
        let verdict = Verdict {
            rotated: self.certificates.iter().map(|watched| watched.rotated).sum(),
            // The first certificate is no rotation.
            seen: self.certificates.iter().map(|watched| watched.seen.len().saturating_sub(1)).sum(),
            dropped: self.dropped,
        };
        println!("calls: {} in {:.1} s", self.calls, self.begun.elapsed().as_secs_f32());
        let wanted = Verdict { rotated: N * ROTATIONS, seen: N * ROTATIONS, dropped: 0 };
        if verdict == wanted { Ok(verdict) } else { Err(Unproven { verdict, wanted }) }
    }
}

impl Watched {
    fn saw(&mut self, seen: String) {
        // The first certificate replaces none.
        let rotated = self.rotations.try_recv().is_some_and(|rotated| rotated.old.is_some());
        self.rotated += usize::from(rotated);
        let current = self.handle.credential().map(|credential| of(&credential));
        // A connection from before the rotation shows the previous certificate.
        if current.as_ref() != Some(&seen) || self.seen.last() == Some(&seen) {
            return;
        }
        println!("{} certificate seen: {seen:.16}…", self.name);
        self.seen.push(seen);
        if self.seen.len() <= ROTATIONS {
            self.handle.rotate_now();
        }
    }
}

/// The result of an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    rotated: usize,
    seen: usize,
    dropped: usize,
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rotated: {} seen by the other side: {} dropped: {}", self.rotated, self.seen, self.dropped)
    }
}

/// Error of [`Witness::verdict`]: a call failed, or the other side did not see each rotation in time.
#[derive(Clone, Copy, Debug)]
pub struct Unproven {
    verdict: Verdict,
    wanted: Verdict,
}

impl Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (expected {})", self.verdict, self.wanted)
    }
}

impl Error for Unproven {}

/// The [`fingerprint`] of the certificate that one side of the connections saw last. Empty at first. Clones share the
/// fingerprint.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<String>>);

impl Seen {
    /// Sets the fingerprint to that of the first certificate of this chain, or to the empty text if there is no
    /// certificate.
    pub fn set(&self, chain: Option<&[CertificateDer<'_>]>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = leaf(chain);
    }

    /// The fingerprint that was set last.
    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The fingerprint of a certificate in DER: its SHA-256 in lower-case hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    sha256(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The [`fingerprint`] of the first certificate of a chain that a peer presented; empty if there is none.
pub fn leaf(chain: Option<&[CertificateDer<'_>]>) -> String {
    chain.and_then(<[_]>::first).map_or_else(String::new, |leaf| fingerprint(leaf))
}

fn of(credential: &Credential) -> String {
    format!("{:x}", credential.chain().certificate().fingerprint)
}
