//! [`SignWith`]: a signer made of a closure.

use std::sync::Arc;

use perennial::Now;
use perennial_pki::{Chain, Usage};

use crate::cancel::Cancel;
use crate::exchange::Exchange;
use crate::progress::Issued;
use crate::sign_error::SignError;
use crate::signer::{Authentication, Profile, SignRequest, Signer};

/// A signer made of a closure that takes a request and returns a chain: for a local CA, a tool, or a library for
/// another CA. The rotation provides keys, pacing, checks and store, as for every signer. A panic in the closure fails
/// the request.
///
/// The [`Failure`](perennial::Failure) of an error decides when the rotation requests again: by default after seconds
/// if the CA is out of order or busy (`Unreachable`, `Throttled`), and after minutes if the CA refuses the request
/// (`Denied`, `SignerFailed`).
///
/// ```
/// use perennial_rotation::{Chain, Failure, SignError, SignWith, Usage};
///
/// # fn my_ca(_csr_der: &[u8]) -> std::io::Result<String> { std::fs::read_to_string("issued.pem") }
/// let signer = SignWith::blocking("example.com/mesh", |request, _cancel| {
///     let pem = my_ca(&request.csr.der).map_err(|error| SignError::new(Failure::Unreachable, error.to_string()))?;
///     Chain::from_issued(pem.as_bytes()).map_err(|error| SignError::new(Failure::BadCertificate, error.to_string()))
/// })
/// .usages([Usage::ServerAuth]);
/// ```
#[derive(derive_more::Debug)]
pub struct SignWith {
    name: String,
    endpoint: Option<String>,
    profile: Profile,
    authentication: Authentication,
    #[debug(skip)]
    begin: Box<dyn Fn(SignRequest) -> Exchange + Send + Sync>,
}

impl SignWith {
    /// Makes a signer of this name from a closure that may block: a runtime calls the closure on a thread for blocking
    /// code. The closure can learn from its [`Cancel`] that the rotation does not want the result any more.
    pub fn blocking<F>(name: impl Into<String>, sign: F) -> Self
    where
        F: Fn(SignRequest, &Cancel) -> Result<Chain, SignError> + Send + Sync + 'static,
    {
        let sign = Arc::new(sign);
        Self::new(name.into(), move |request| {
            let sign = sign.clone();
            Exchange::blocking(move |cancel| sign(request, cancel).map(Issued::from))
        })
    }

    /// Makes a signer of this name from a closure that returns a future. The rotation drops the future when it does not
    /// want the result any more.
    pub fn future<F, Fut>(name: impl Into<String>, sign: F) -> Self
    where
        F: Fn(SignRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Chain, SignError>> + Send + 'static,
    {
        let sign = Arc::new(sign);
        Self::new(name.into(), move |request| {
            let sign = sign.clone();
            Exchange::future(async move { sign(request).await.map(Issued::from) })
        })
    }

    fn new(name: String, begin: impl Fn(SignRequest) -> Exchange + Send + Sync + 'static) -> Self {
        let (profile, authentication) = (Profile::new([Usage::ClientAuth]), Authentication::None);
        Self { name, endpoint: None, profile, authentication, begin: Box::new(begin) }
    }

    /// Sets the extended key usages of certificates: [`Usage::ClientAuth`] by default.
    #[must_use]
    pub fn usages(mut self, usages: impl IntoIterator<Item = Usage>) -> Self {
        self.profile.usages = usages.into_iter().collect();
        self
    }

    /// Sets all requirements on the certificates of this signer, including the usages.
    #[must_use]
    pub fn profile(self, profile: Profile) -> Self {
        Self { profile, ..self }
    }

    /// Sets how requests authenticate: where [`SignRequest::identity`] comes from. By default, requests have no
    /// identity.
    #[must_use]
    pub fn authentication(self, authentication: Authentication) -> Self {
        Self { authentication, ..self }
    }

    /// Sets the endpoint of the signer, for example a URL; no endpoint by default. A restart does not continue a
    /// request that was submitted to another endpoint.
    #[must_use]
    pub fn endpoint(self, endpoint: impl Into<String>) -> Self {
        Self { endpoint: Some(endpoint.into()), ..self }
    }
}

impl Signer for SignWith {
    fn name(&self) -> &str {
        &self.name
    }

    fn endpoint(&self) -> Option<String> {
        self.endpoint.clone()
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn begin(&self, request: SignRequest, _now: Now) -> Result<Exchange, SignError> {
        Ok((self.begin)(request))
    }
}
