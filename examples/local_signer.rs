//! Parts of a program that the loops around the bare machine share: keys, a pair on disk, and a signer that answers
//! after a while. The signer stands for the server to which a real program submits its requests.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use perennial::{Certificate, Event, Failure, Key, Now, Policy, RequestId, RotationMachine, Setup, Template, Validity};
use perennial_pki::{Chain, Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, Usage};
use perennial_pki::{certificate_request, read_request, self_signed};
use perennial_rotation::clock;
use tempfile::TempDir;

/// The error with which an example ends, of any type.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// How long each certificate is valid: so short that an example rotates within seconds.
pub const LIFETIME: Duration = Duration::from_secs(3);

/// A machine without a certificate, with the policy for [`LIFETIME`]. Its first deadline is `now`.
pub fn machine(now: Now) -> RotationMachine {
    let template = Arc::new(Template::new("sensor-1").with_dns_names(["sensor-1.example"]));
    let seed = perennial::seed("example.com/sensors", template.common_name());
    let policy = Arc::new(Policy::for_lifetime(LIFETIME));
    RotationMachine::new(Setup { seed, policy, template: Some(template), ..Setup::default() }, now)
}

/// The keys of the requests, and the pair on disk. The machine holds no key: it names keys by [`Key`].
#[derive(Debug)]
pub struct Keys {
    pending: Arc<KeyPair>,
    issued: Option<Credential>,
    written: u32,
    directory: TempDir,
}

impl Keys {
    /// Makes a pending key, and an empty directory that is removed on drop.
    ///
    /// # Errors
    /// No key can be generated, or no directory can be created.
    pub fn new() -> Result<Self, AnyError> {
        let pending = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256)?);
        Ok(Self { pending, issued: None, written: 0, directory: TempDir::new()? })
    }

    /// Makes the CSR in PEM for an [`Action::SubmitCsr`](perennial::Action::SubmitCsr).
    ///
    /// # Errors
    /// No key can be generated, or the template has a name that X.509 cannot carry.
    pub fn request(&mut self, template: &Template, key: Key) -> Result<String, AnyError> {
        if key == Key::New {
            self.pending = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256)?);
        }
        Ok(certificate_request(template, &self.pending)?.pem)
    }

    /// Checks the signer's answer to a request: a chain in PEM for the key of the request. Returns the event that
    /// reports the result to the machine.
    pub fn answered(&mut self, id: RequestId, answer: &[u8]) -> Event {
        let chain = Chain::from_issued(answer).map_err(|_| Failure::BadCertificate);
        match chain.and_then(|chain| Credential::new(chain, self.pending.clone()).map_err(|_| Failure::BadCertificate))
        {
            Ok(issued) => {
                let certificate = issued.chain().certificate().clone();
                self.issued = Some(issued);
                Event::CsrIssued { id, certificate }
            }
            Err(failure) => Event::CsrFailed { id, failure, retry_after: None },
        }
    }

    /// Writes a certificate and its key to disk, so that they survive a loss of power. Returns the event that reports
    /// the write to the machine. `perennial_rotation::Directory` uses a layout that other programs can read.
    pub fn write(&mut self, id: RequestId, certificate: &Certificate) -> Event {
        match self.issued.as_ref().filter(|issued| **issued.chain().certificate() == *certificate) {
            Some(issued) if self.replace(issued).is_ok() => {
                self.written += 1;
                Event::CertWritten { id }
            }
            _ => Event::WriteFailed { id },
        }
    }

    /// The number of certificates that were issued and made durable.
    pub fn written(&self) -> u32 {
        self.written
    }

    fn replace(&self, issued: &Credential) -> io::Result<()> {
        let [new, current] = ["pair.new", "pair.pem"].map(|name| self.directory.path().join(name));
        let mut file = File::create(&new)?;
        file.write_all(issued.to_pem().as_bytes())?;
        file.sync_all()?;
        fs::rename(new, current)?;
        File::open(self.directory.path())?.sync_all()
    }
}

/// A CA in memory.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer,
    next_serial: AtomicU64,
}

impl Ca {
    /// A new CA, valid for an hour.
    ///
    /// # Errors
    /// No key can be generated.
    pub fn new() -> Result<Self, AnyError> {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256)?);
        let now = clock::now().unix;
        let chain = self_signed("sensors", &key, &[1], Validity::new(now, now.after(Duration::from_secs(3600)))?)?;
        let issuer = Issuer::new(Credential::new(chain, key)?)?;
        // The first byte is not 0: serial numbers are positive (RFC 5280 §4.1.2.2).
        Ok(Self { issuer, next_serial: AtomicU64::new(1 << 56) })
    }

    /// Answers a CSR in PEM with a chain in PEM, or with the text of an error. Sleeps first, like a signer
    /// that takes time, so an event loop must not call this.
    pub fn answer(&self, csr: &[u8]) -> Vec<u8> {
        thread::sleep(LIFETIME / 100);
        self.issue(csr).map_or_else(|error| error.to_string(), |chain| chain.pem().to_owned()).into_bytes()
    }

    fn issue(&self, csr: &[u8]) -> Result<Chain, AnyError> {
        let now = clock::now().unix;
        let terms = Terms {
            serial: &self.next_serial.fetch_add(1, Ordering::Relaxed).to_be_bytes(),
            validity: Validity::new(now, now.after(LIFETIME))?,
            key_usages: &[KeyUsage::DigitalSignature],
            extended_key_usages: &[Usage::ServerAuth],
        };
        Ok(self.issuer.issue(&read_request(csr)?, &terms)?)
    }
}

/// A connection to a [`Ca`] on another thread. Never blocks: a loop waits until the socket is readable.
#[derive(Debug)]
pub struct Connection(UnixDatagram);

impl Connection {
    /// Starts the CA and connects to it.
    ///
    /// # Errors
    /// The system refuses a socket, or the CA has no key.
    pub fn open() -> Result<Self, AnyError> {
        let (ca, (ours, theirs)) = (Ca::new()?, UnixDatagram::pair()?);
        ours.set_nonblocking(true)?;
        thread::spawn(move || -> io::Result<()> {
            let mut request = [0; DATAGRAM];
            loop {
                let length = theirs.recv(&mut request)?;
                let (id, csr) = request[..length].split_at(ID.min(length));
                theirs.send(&[id, &ca.answer(csr)].concat())?;
            }
        });
        Ok(Self(ours))
    }

    /// Sends a CSR.
    ///
    /// # Errors
    /// The CA is gone.
    pub fn send(&self, id: RequestId, csr: &str) -> io::Result<()> {
        self.0.send(&[&id.get().to_be_bytes(), csr.as_bytes()].concat()).map(drop)
    }

    /// Reads the next answer; `None` if none has arrived.
    ///
    /// # Errors
    /// The CA is gone.
    pub fn receive(&self) -> io::Result<Option<(RequestId, Vec<u8>)>> {
        let mut answer = [0; DATAGRAM];
        let length = match self.0.recv(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            received => received?,
        };
        let (id, answer) = answer[..length].split_first_chunk().ok_or(ErrorKind::InvalidData)?;
        let id = NonZeroU64::new(u64::from_be_bytes(*id)).ok_or(ErrorKind::InvalidData)?;
        Ok(Some((RequestId::new(id), answer.to_vec())))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Bytes of the id that each request and answer begins with.
const ID: usize = size_of::<u64>();
/// More bytes than a CSR or a chain of one certificate has.
const DATAGRAM: usize = 16 << 10;
