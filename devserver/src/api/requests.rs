//! The verbs that clients may use on stored objects, such as `create` and `watch`.

use std::sync::Arc;

use http::Method;
use perennial::UnixTime;

use super::Api;
use super::access::{self, Attributes};
use super::body;
use super::bundle;
use super::message::{Answer, ApiRequest, Query, Response};
use super::object::Object;
use super::options::WriteOptions;
use super::resource::{Key, Resource};
use super::store::Stored;
use super::table::{Shape, shaped};
use super::user::User;
use super::validation::Subresource;
use super::{patch, plain, pod_request, rfc3339, status};

/// `generateName` is cut to this length, in characters, before the random suffix is appended.
const LONGEST_PREFIX: usize = 58;
/// Number of attempts to generate a free name, as in a cluster.
const NAME_TRIES: usize = 8;

/// One operation on stored objects: user, key, subresource, dry run and time.
pub(super) struct Call<'a> {
    pub(super) user: &'a User,
    /// The object; a key without name is for a whole collection.
    pub(super) key: &'a Key,
    pub(super) subresource: Option<Subresource>,
    /// True to check and answer the request without storing a change.
    pub(super) dry_run: bool,
    pub(super) now: UnixTime,
}

impl Api {
    /// Answers a request for all objects of a resource or for one. `rest` is the path after the name of the resource:
    /// empty, a name, or a name and a subresource.
    pub(super) fn collection(
        &mut self,
        request: &ApiRequest,
        user: &User,
        (resource, namespace, rest): (Resource, &str, &[&str]),
        now: UnixTime,
    ) -> Result<Answer, Response> {
        let query = request.query();
        let (name, subresource, part) = match *rest {
            [] => ("", "", None),
            [name] => (name, "", None),
            [name, subresource] => {
                let part = Subresource::find(resource, subresource).ok_or_else(status::no_such_resource)?;
                (name, subresource, Some(part))
            }
            _ => return Err(status::no_such_resource()),
        };
        let key = &Key::new(resource, namespace, name);
        // Objects of all namespaces can be read together, but not written.
        let writable = !resource.is_namespaced() || !namespace.is_empty();
        let verb = match (&request.method, name) {
            (&Method::GET, _) if query.flag("watch") => "watch",
            (&Method::GET, "") => "list",
            (&Method::GET, _) => "get",
            (&Method::POST, "") if writable => "create",
            (&Method::PUT, name) if !name.is_empty() => "update",
            (&Method::PATCH, name) if !name.is_empty() => "patch",
            (&Method::DELETE, "") if writable => "deletecollection",
            (&Method::DELETE, name) if !name.is_empty() && part.is_none() => "delete",
            _ => return Err(status::method_not_allowed()),
        };
        let (group, plural) = (resource.group(), resource.plural());
        if !self.node_may_read(user, verb, key, &query) {
            access::authorize(user, &Attributes { verb, group, resource: plural, subresource, namespace, name })?;
        }
        let shape = Shape::accepted(&request.accept, &query).ok_or_else(status::not_acceptable)?;
        let options = WriteOptions::from_query(&query, verb)?;
        let call = Call { user, key, subresource: part, dry_run: options.dry_run, now };
        let (code, stored, warnings) = match verb {
            "watch" => return self.watch(key, &query, shape, now).map(Answer::Watch),
            "list" => return self.list(key, &query, shape, now).map(Answer::List),
            "deletecollection" => return self.delete_collection(request, &query, &call),
            "delete" => return self.delete(request, &call).map(Answer::Response),
            "get" => (200, Arc::clone(self.find(key)?), Vec::new()),
            "create" => {
                let (object, warnings) = body::stored_object(request, resource, options.fields)?;
                (201, self.create(object, &call)?, warnings)
            }
            _ => {
                let (object, warnings) = match verb {
                    "patch" => patch::apply(request, &self.find(key)?.object, options.fields)?,
                    _ => body::stored_object(request, resource, options.fields)?,
                };
                (200, self.update(object, &call)?, warnings)
            }
        };
        Ok(Answer::Response(Response { warnings, ..Response::written(code, shaped(&stored, shape, now).into_owned()) }))
    }

    pub(super) fn find(&self, key: &Key) -> Result<&Arc<Stored>, Response> {
        self.store.get(key).ok_or_else(|| status::not_found(key))
    }

    pub(super) fn create(&mut self, mut object: Object, call: &Call<'_>) -> Result<Arc<Stored>, Response> {
        set_namespace(&mut object, call.key)?;
        self.name(&mut object)?;
        let key = object.key();
        match &mut object {
            Object::Csr(csr) => self.prepare_csr(csr, call.user)?,
            Object::PodRequest(request) => {
                // In a cluster, NodeRestriction is mutating admission, which comes before validation.
                self.restrict_pod_request(call.user, &key, &request.spec)?;
                pod_request::prepare(request, &key)?;
            }
            Object::TrustBundle(bundle) => bundle::check(bundle, &key)?,
            Object::Pod(pod) => plain::prepare_pod(pod, &key)?,
            Object::Node(object) | Object::ServiceAccount(object) => plain::check(object, &key)?,
        }

        // From here on the server's own fields, whatever the object contained (`PrepareForCreate`).
        let metadata = object.metadata_mut();
        metadata.uid = self.random.uid();
        metadata.creation_timestamp = Some(rfc3339(call.now));
        metadata.resource_version = String::new();
        if self.store.get(&key).is_some() {
            return Err(status::already_exists(&key));
        }
        if !self.store.has_room(None, &object) {
            return Err(status::store_full(&key, &self.options));
        }
        // After all checks: a dry run fails whenever the write would.
        if call.dry_run {
            return Ok(Arc::new(Stored::new(object, 0, call.now)));
        }
        let stored = self.store.insert(object, call.now);
        self.schedule(&key, call.now);
        Ok(stored)
    }

    /// Generates a name from `generateName`, unless the object has a name. If both fields are empty, the name stays
    /// empty, and the validation refuses the object.
    fn name(&mut self, object: &mut Object) -> Result<(), Response> {
        let mut key = object.key();
        let metadata = object.metadata_mut();
        if !metadata.name.is_empty() || metadata.generate_name.is_empty() {
            return Ok(());
        }
        let prefix: String = metadata.generate_name.chars().take(LONGEST_PREFIX).collect();
        for _ in 0..NAME_TRIES {
            key.name = format!("{prefix}{}", self.random.suffix());
            if self.store.get(&key).is_none() {
                metadata.name = key.name;
                return Ok(());
            }
        }
        key.name.clone_from(&metadata.generate_name);
        Err(status::already_exists(&key))
    }

    fn delete(&mut self, request: &ApiRequest, call: &Call<'_>) -> Result<Response, Response> {
        let wanted = body::delete_options(request)?;
        let object = &self.find(call.key)?.object;
        wanted.preconditions.check(object)?;
        let answer = status::deleted(call.key, &object.metadata().uid);
        if !(call.dry_run || wanted.dry_run()?) {
            self.remove(call.key);
        }
        Ok(answer)
    }

    /// Removes an object. With a pod, also removes the certificate requests that the pod alone owns, as the garbage
    /// collector of a cluster does. Returns false if there is no such object.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let Some(removed) = self.store.remove(key) else { return false };
        if key.resource == Resource::Pods {
            let uid = &removed.object.metadata().uid;
            let requests = self.store.iter(Resource::PodCertificateRequests);
            let owned = requests.filter(|stored| {
                let owners = &stored.object.metadata().owner_references;
                !owners.is_empty() && owners.iter().all(|owner| owner.uid == *uid)
            });
            for key in owned.map(|stored| stored.key.clone()).collect::<Vec<_>>() {
                self.store.remove(&key);
            }
        }
        true
    }

    /// Deletes the objects that LIST with the same query returns. Deletes none if one of them does not fulfil the
    /// preconditions.
    fn delete_collection(&mut self, request: &ApiRequest, query: &Query, call: &Call<'_>) -> Result<Answer, Response> {
        let wanted = body::delete_options(request)?;
        let dry_run = call.dry_run || wanted.dry_run()?;
        let mut list = self.list(call.key, query, Shape::Objects, call.now)?;
        let objects = list.objects.as_slice();
        objects.iter().try_for_each(|stored| wanted.preconditions.check(&stored.object))?;
        for stored in objects.iter().filter(|_| !dry_run) {
            self.remove(&stored.key);
        }
        // The deletions may have removed the list's version from the log: its objects are still to be written.
        list.version = self.store.version();
        Ok(Answer::List(list))
    }
}

/// Sets the namespace of a new object to that of the path, or refuses an object of another namespace (`BeforeCreate`).
fn set_namespace(object: &mut Object, key: &Key) -> Result<(), Response> {
    let given = &mut object.metadata_mut().namespace;
    if key.resource.is_namespaced() && !given.is_empty() && *given != key.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(status::bad_request(message));
    }
    given.clone_from(&key.namespace);
    Ok(())
}
