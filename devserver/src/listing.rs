//! A LIST on its way to the client: written piece by piece, so that a slow reader holds no copy of it.

use std::sync::Arc;
use std::vec;

use perennial::UnixTime;

use super::list::Page;
use super::message::Response;
use super::store::{Store, Stored};
use super::table::{CLOSING, Shape};

/// About as much is written at a time.
const PIECE: usize = 8 * 1024;

/// The answer to a LIST.
///
/// It shows the version of its request and shares the objects with the server: once the server no longer remembers that
/// version, a reader that is still reading gets no more.
#[derive(Debug)]
pub struct Listing {
    opening: Vec<u8>,
    objects: vec::IntoIter<Arc<Stored>>,
    shape: Shape,
    now: UnixTime,
    version: u64,
    /// An object has been written.
    begun: bool,
    ended: bool,
}

/// The next part of a [`Listing`].
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    /// The list is complete.
    End,
    /// The server no longer remembers the rest.
    Lost,
}

impl Listing {
    pub(super) fn new(Page { objects, metadata, version }: Page, shape: Shape, now: UnixTime) -> Self {
        let opening = shape.opening(&metadata);
        Self { opening, objects: objects.into_iter(), shape, now, version, begun: false, ended: false }
    }

    /// The whole list as one response.
    pub fn into_response(mut self) -> Response {
        let mut body = Vec::new();
        while self.write(&mut body) {}
        Response::written(200, body)
    }

    pub(super) fn let_go(&mut self, store: &Store) {
        if self.version < store.oldest() {
            self.objects = Vec::new().into_iter();
        }
    }

    pub(super) fn next(&mut self, store: &Store) -> Piece {
        if self.ended {
            return Piece::End;
        }
        if self.version < store.oldest() {
            return Piece::Lost;
        }
        let mut piece = Vec::new();
        while piece.len() < PIECE && self.write(&mut piece) {}
        Piece::Bytes(piece)
    }

    /// Writes the next object, or the end. Whether there is more.
    fn write(&mut self, out: &mut Vec<u8>) -> bool {
        out.append(&mut self.opening);
        let Some(stored) = self.objects.next() else {
            out.extend_from_slice(CLOSING);
            self.ended = true;
            return false;
        };
        if std::mem::replace(&mut self.begun, true) {
            out.push(b',');
        }
        out.extend_from_slice(&self.shape.item(&stored, self.now));
        true
    }
}
