//! LIST: selects the objects of a resource version, and divides them into pages. The text of a list is produced piece
//! by piece, so that the server does not keep the whole text for a slow reader.

use std::sync::Arc;
use std::vec;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use perennial::UnixTime;
use serde::{Deserialize, Serialize};

use super::Api;
use super::message::{Query, Response, to_json};
use super::resource::Key;
use super::selector::Selector;
use super::status;
use super::store::{Store, Stored};
use super::table::{CLOSING, Shape};
use super::validation;
use perennial_kubernetes::objects::ListMeta;

/// Size of a piece of a list, in bytes, approximately.
const PIECE: usize = 8 * 1024;

/// The parts of a LIST query that choose the resource version and the page.
struct ListVersion {
    /// The requested version; `None` is the latest.
    version: Option<u64>,
    /// True if the list must show exactly `version`; false if the list may show a later version.
    exact: bool,
    /// Least key that the page may contain, as in the continue token; `None` for the first page.
    start: Option<String>,
}

/// The continue token, in a cluster's format.
#[derive(Serialize, Deserialize)]
struct ContinueToken {
    v: String,
    /// Resource version of the list; -1 is the latest version.
    rv: i64,
    /// Least key that the requested page may contain: the last key of the page before, followed by a zero byte. A key is
    /// `namespace/name`, or `name` for a resource without namespaces.
    start: String,
}

const TOKEN_FORMAT: &str = "meta.k8s.io/v1";

impl ContinueToken {
    fn new(rv: i64, start: &str) -> Self {
        Self { v: TOKEN_FORMAT.into(), rv, start: start.into() }
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(to_json(self))
    }

    fn decode(text: &str) -> Result<Self, Response> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        bytes
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .filter(|token: &Self| token.v == TOKEN_FORMAT && token.rv >= -1)
            .ok_or_else(|| status::bad_request("continue key is not valid: send it as it was received"))
    }
}

impl Api {
    /// Lists the objects that `query` selects, as of the version that `query` requests.
    pub(super) fn list(&self, scope: &Key, query: &Query, shape: Shape, now: UnixTime) -> Result<Listing, Response> {
        let selector = Selector::new(scope, query)?;
        let limit = match query.get("limit").filter(|limit| !limit.is_empty()) {
            Some(limit) => limit.parse().map_err(|_| status::bad_request(format!("invalid limit {limit:?}")))?,
            // As in a cluster, zero is no limit.
            None => 0_usize,
        };
        let list_version = list_version(query, limit)?;
        let version = self.version_to_list(&list_version)?;
        let mut objects = objects_at(&self.store, &selector, version);
        if let Some(start) = &list_version.start {
            let start = start.split_once('/').unwrap_or(("", start));
            objects.retain(|stored| (stored.key.namespace.as_str(), stored.key.name.as_str()) >= start);
        }

        let mut metadata = ListMeta { resource_version: version.to_string(), ..ListMeta::default() };
        if (1..objects.len()).contains(&limit) {
            let left = objects.split_off(limit).len();
            let last = objects.last().map(|stored| stored.key.path()).unwrap_or_default();
            metadata.continue_ = ContinueToken::new(version.cast_signed(), &format!("{last}\0")).encode();
            // As in a cluster: the count is omitted with a selector.
            metadata.remaining_item_count = (!selector.is_restricted()).then_some(left as u64);
        }
        let opening = shape.opening(scope.resource, &metadata);
        Ok(Listing { opening, objects: objects.into_iter(), shape, now, version, begun: false, ended: false })
    }

    fn version_to_list(&self, list_version: &ListVersion) -> Result<u64, Response> {
        let (oldest, current) = (self.store.oldest(), self.store.version());
        let requested = list_version.version.unwrap_or(current);
        if requested > current {
            return Err(status::response(&status::too_large_version(requested, current)));
        }
        match &list_version.start {
            _ if !list_version.exact => Ok(current),
            _ if requested >= oldest => Ok(requested),
            Some(start) => Err(status::continue_expired(ContinueToken::new(-1, start).encode())),
            None => Err(status::response(&status::expired(requested, oldest))),
        }
    }
}

/// Reads version and page of a LIST, by a cluster's rules for `resourceVersion`, `resourceVersionMatch` and `continue`.
fn list_version(query: &Query, limit: usize) -> Result<ListVersion, Response> {
    let given = |key| query.get(key).filter(|value| !value.is_empty());
    let (version, wanted, token) = (given("resourceVersion"), given("resourceVersionMatch"), given("continue"));
    const MATCH: &str = "resourceVersionMatch";
    let forbidden = |why: &str| Err(status::invalid_list_options(validation::forbidden(MATCH, why)));
    match (wanted, version) {
        (Some(_), None) => return forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (Some(_), _) if token.is_some() => {
            return forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        (Some("Exact"), Some("0")) => {
            return forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        (None | Some("Exact" | "NotOlderThan"), _) => {}
        (Some(other), _) => {
            let cause = validation::not_supported(MATCH, other, &["Exact", "NotOlderThan", ""]);
            return Err(status::invalid_list_options(cause));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for list";
        return Err(status::invalid_list_options(validation::forbidden("sendInitialEvents", why)));
    }
    let version = version.map(parse_version).transpose()?.filter(|version| *version > 0);
    match (token, version) {
        (Some(_), Some(_)) => {
            Err(status::bad_request("specifying resource version is not allowed when using continue"))
        }
        (Some(token), None) => {
            let ContinueToken { rv, start, .. } = ContinueToken::decode(token)?;
            // -1 is the only negative version of a token: the latest.
            Ok(ListVersion { version: u64::try_from(rv).ok(), exact: true, start: Some(start) })
        }
        // Without resourceVersionMatch, a limit makes the version exact: the behaviour before the parameter existed.
        (None, version) => {
            Ok(ListVersion { version, exact: wanted == Some("Exact") || wanted.is_none() && limit > 0, start: None })
        }
    }
}

pub(super) fn parse_version(text: &str) -> Result<u64, Response> {
    text.parse().map_err(|_| status::bad_request(format!("invalid resource version {text:?}")))
}

/// The objects that `selector` selects as of `version`, sorted by key. At the latest version, a selector for one key
/// needs only one look-up.
fn objects_at(store: &Store, selector: &Selector, version: u64) -> Vec<Arc<Stored>> {
    let matches = |stored: &&Arc<Stored>| selector.matches(&stored.object);
    if version != store.version() {
        return store.at(selector.resource(), version).into_values().filter(matches).cloned().collect();
    }
    match selector.key() {
        Some(key) => store.get(&key).into_iter().filter(matches).cloned().collect(),
        None => store.iter(selector.resource()).filter(matches).cloned().collect(),
    }
}

/// The answer to a LIST.
///
/// Shows the objects as of one resource version. The objects are shared with the server, not copied. If the server
/// forgets this version while a slow reader still reads, the [`Session`](crate::Session) ends the connection in the
/// middle of the list.
#[derive(Debug)]
pub struct Listing {
    opening: Vec<u8>,
    pub(super) objects: vec::IntoIter<Arc<Stored>>,
    shape: Shape,
    now: UnixTime,
    pub(super) version: u64,
    /// True once an object has been written: a comma precedes each further object.
    begun: bool,
    ended: bool,
}

impl Listing {
    /// The whole list as one response.
    pub fn into_response(self) -> Response {
        Response::written(200, self.flatten().collect())
    }

    /// True if the list is not written to its end yet, and the store no longer holds the version that the list shows.
    pub(super) fn is_forgotten(&self, store: &Store) -> bool {
        !self.ended && self.version < store.oldest()
    }
}

/// The pieces of the list's text, each of about 8 KiB.
impl Iterator for Listing {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let mut piece = std::mem::take(&mut self.opening);
        while piece.len() < PIECE {
            let Some(stored) = self.objects.next() else {
                piece.extend_from_slice(CLOSING);
                self.ended = true;
                break;
            };
            if std::mem::replace(&mut self.begun, true) {
                piece.push(b',');
            }
            piece.extend_from_slice(&self.shape.item(&stored, self.now));
        }
        Some(piece)
    }
}
