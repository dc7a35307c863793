//! A single HTTP request and its answer.

use std::sync::Arc;

use perennial::{Instant, Now};

use super::exchange_error::ExchangeError;
use super::http::Request;
use super::limits::Limits;
use super::response::{Event, Response};
use super::session::Session;
use crate::cluster::Cluster;
use perennial_rotation::{Conversation, Identity, IoEvent, IoRequest};

/// A single HTTP request to an API server. Its outcome is the answer, of any status, or the reason why there is none.
#[derive(derive_more::Debug)]
#[debug("Call({:?}, outcome {outcome:?})", session.cluster())]
pub struct Call {
    session: Session,
    request: Option<Request>,
    outcome: Option<Result<Response, ExchangeError>>,
}

impl Call {
    /// Makes `request` to `cluster`, authenticated as `identity`. Of `limits`, only [`Limits::connect`] and
    /// [`Limits::answer`] apply.
    pub const fn new(request: Request, cluster: Arc<Cluster>, identity: Identity, limits: Limits) -> Self {
        Self { session: Session::new(cluster, identity, limits), request: Some(request), outcome: None }
    }

    fn advance(&mut self, now: Now) {
        if let Some(request) = self.request.take() {
            self.session.send(request, None, now);
        }
        while let Some(event) = self.session.event(now) {
            match event {
                Event::Answer(response) => self.outcome = Some(Ok(response)),
                Event::Lost(error) => self.outcome = Some(Err(error)),
                // Only a stream has these events.
                Event::Opened | Event::Piece(_) | Event::Closed => {}
            }
            self.session.close();
        }
    }
}

impl Conversation for Call {
    type Outcome = Result<Response, ExchangeError>;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.session.handle(input, now);
        self.advance(now);
    }

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        self.advance(now);
        if let Some(step) = self.session.step(now) {
            return step;
        }
        self.outcome.take().map_or(IoRequest::Wait { until: Instant::MAX }, IoRequest::Done)
    }
}
