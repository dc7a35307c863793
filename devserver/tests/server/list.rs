//! Pages, versions and preconditions of lists, and bookmarks of watches.

use crate::support::*;
use perennial_dev::{ApiRequest, Method, Next, Options, Watcher};
use serde_json::{Value, json};

/// A server that stores requests of these names, and remembers `history` changes.
fn with(names: &[&str], history: usize) -> Server {
    let mut server = Server::new(Options { history, ..manual() });
    for name in names {
        assert_eq!(server.create(&Role::Bootstrap, &node_csr(name, "one")).0, 201);
    }
    server
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn token(list: &Value) -> &str {
    list["metadata"]["continue"].as_str().unwrap_or_default()
}

#[test]
fn all_pages_of_a_list_show_one_version() {
    let mut server = with(&["a", "c", "d", "e"], 100);
    let (_, first) = server.list(&Role::Admin, "limit=2");
    assert_eq!(names(&first), ["a", "c"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    server.delete(&Role::Admin, "d");
    server.create(&Role::Bootstrap, &node_csr("f", "one"));
    server.approve("e");

    let (_, second) = server.list(&Role::Admin, &format!("limit=1&continue={}", token(&first)));
    assert_eq!((names(&second), &second["metadata"]["resourceVersion"]), (vec!["d"], &json!("5")));
    let (_, last) = server.list(&Role::Admin, &format!("limit=1&continue={}", token(&second)));
    assert_eq!((names(&last), token(&last)), (vec!["e"], ""));
    assert_eq!(last["items"][0]["status"], json!({}), "as it was then");
    assert_eq!(last["metadata"].get("remainingItemCount"), None);
}

#[test]
fn pages_contain_selected_objects_only() {
    let mut server = with(&["a", "b", "c"], 100);
    for name in ["a", "c"] {
        let mut object = server.object(name);
        object["metadata"]["labels"] = json!({ "x": "y" });
        server.put(&Role::Admin, name, &object);
    }
    let (_, first) = server.list(&Role::Admin, "limit=1&labelSelector=x");
    assert_eq!((names(&first), first["metadata"].get("remainingItemCount")), (vec!["a"], None));
    let (_, last) = server.list(&Role::Admin, &format!("limit=1&labelSelector=x&continue={}", token(&first)));
    assert_eq!((names(&last), token(&last)), (vec!["c"], ""));
}

#[test]
fn page_of_forgotten_version_gets_410_with_new_continue_token() {
    let mut server = with(&["a", "b", "c"], 3);
    let (_, first) = server.list(&Role::Admin, "limit=1");
    for name in ["d", "e", "f", "g"] {
        server.create(&Role::Bootstrap, &node_csr(name, "one"));
    }
    let (status, gone) = server.list(&Role::Admin, &format!("limit=2&continue={}", token(&first)));
    assert_eq!((status, &gone["reason"]), (410, &json!("Expired")));
    let (status, fresh) = server.list(&Role::Admin, &format!("limit=2&continue={}", token(&gone)));
    assert_eq!((status, names(&fresh)), (200, vec!["b", "c"]));
    let (_, rest) = server.list(&Role::Admin, &format!("continue={}", token(&fresh)));
    assert_eq!(names(&rest), ["d", "e", "f", "g"]);
}

#[test]
fn list_shows_objects_at_the_requested_version() {
    let mut server = with(&["a", "b", "c"], 2);
    for (query, status, shown) in [
        ("resourceVersion=3&resourceVersionMatch=Exact", 200, vec!["a", "b"]),
        ("resourceVersion=3&limit=5", 200, vec!["a", "b"]),
        ("resourceVersion=3&resourceVersionMatch=NotOlderThan", 200, vec!["a", "b", "c"]),
        ("resourceVersion=1", 200, vec!["a", "b", "c"]),
        ("resourceVersion=0&limit=2&resourceVersionMatch=NotOlderThan", 200, vec!["a", "b"]),
        ("resourceVersion=1&resourceVersionMatch=Exact", 410, vec![]),
        ("resourceVersion=9", 504, vec![]),
        ("resourceVersion=9&resourceVersionMatch=Exact", 504, vec![]),
        ("resourceVersion=x", 400, vec![]),
        ("limit=-1", 400, vec![]),
        ("continue=x", 400, vec![]),
        ("resourceVersionMatch=Exact", 422, vec![]),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, vec![]),
        ("resourceVersionMatch=Newest&resourceVersion=2", 422, vec![]),
        ("resourceVersionMatch=Exact&resourceVersion=2&continue=x", 422, vec![]),
    ] {
        let (code, list) = server.list(&Role::Admin, query);
        assert_eq!(code, status, "{query}: {list}");
        if status == 200 {
            assert_eq!(names(&list), shown, "{query}");
        }
    }
}

#[test]
fn table_of_objects_is_paged_by_limit() {
    let mut server = with(&["a", "b", "c"], 100);
    let mut request = ApiRequest::new(Method::GET, format!("{COLLECTION}?limit=2"));
    request.accept = "application/json;as=Table;v=v1;g=meta.k8s.io".into();
    let (_, page) = server.send(&Role::Admin, request);
    assert_eq!((page["rows"].as_array().unwrap().len(), &page["metadata"]["remainingItemCount"]), (2, &json!(1)));
    assert_ne!(token(&page), "");
}

#[test]
fn collection_is_deleted_only_if_all_preconditions_hold() {
    let mut server = with(&["a", "b", "c"], 100);
    let delete = |server: &mut Server, query: &str, preconditions: Value| {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions });
        server.send(&Role::Admin, with_body(Method::DELETE, &format!("{COLLECTION}?{query}"), &options))
    };
    assert_eq!(delete(&mut server, "", json!({ "resourceVersion": "2" })).0, 409);
    assert_eq!(names(&server.list(&Role::Admin, "").1), ["a", "b", "c"]);
    let (status, deleted) = delete(&mut server, "fieldSelector=metadata.name%3Da", json!({ "resourceVersion": "2" }));
    assert_eq!((status, names(&deleted)), (200, vec!["a"]));
    let (_, deleted) = delete(&mut server, "limit=1", json!({}));
    assert_eq!(names(&deleted), ["b"]);
    assert_eq!(names(&server.list(&Role::Admin, "").1), ["c"]);
}

fn event(server: &Server, watcher: &mut Watcher) -> Option<Value> {
    match server.api.next_event(watcher, server.now) {
        Next::Event(line) => Some(serde_json::from_slice(&line).unwrap()),
        Next::Pending | Next::End => None,
    }
}

#[test]
fn bookmark_each_minute_has_the_latest_version() {
    let mut server = with(&["a"], 100);
    let mut with_bookmarks = server.watch("allowWatchBookmarks=true&resourceVersion=2&fieldSelector=metadata.name%3Da");
    let mut without_bookmarks = server.watch("resourceVersion=2&fieldSelector=metadata.name%3Da");
    server.create(&Role::Bootstrap, &node_csr("b", "one"));
    assert_eq!(event(&server, &mut with_bookmarks), None, "not at once");
    server.now = after(60);
    let bookmark = event(&server, &mut with_bookmarks).unwrap();
    assert_eq!(
        (&bookmark["type"], &bookmark["object"]["metadata"]["resourceVersion"]),
        (&json!("BOOKMARK"), &json!("3"))
    );
    assert_eq!(bookmark["object"]["metadata"].get("annotations"), None);
    assert_eq!(event(&server, &mut with_bookmarks), None, "nothing new");
    assert_eq!(event(&server, &mut without_bookmarks), None, "not requested");
    server.create(&Role::Bootstrap, &node_csr("c", "one"));
    server.now = after(119);
    assert_eq!(event(&server, &mut with_bookmarks), None, "too soon");
    server.now = after(120);
    assert_eq!(event(&server, &mut with_bookmarks).unwrap()["object"]["metadata"]["resourceVersion"], "4");
}

#[test]
fn watch_sends_a_last_bookmark_at_its_timeout() {
    let mut server = with(&["a"], 100);
    let mut watcher = server.watch("allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion=2&labelSelector=x");
    server.delete(&Role::Admin, "a");
    assert_eq!(event(&server, &mut watcher), None);
    server.now = after(5);
    let bookmark = event(&server, &mut watcher).unwrap();
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], "3");
    assert_eq!(event(&server, &mut watcher), None);
}

#[test]
fn watch_without_initial_events_begins_at_current_version() {
    let mut server = with(&["a"], 100);
    let mut watcher = server.watch("sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    server.create(&Role::Bootstrap, &node_csr("b", "one"));
    assert_eq!(server.drain(&mut watcher), (vec!["ADDED b".into()], false));
    for query in ["sendInitialEvents=false", "resourceVersionMatch=NotOlderThan&resourceVersion=2"] {
        assert_eq!(server.list(&Role::Admin, &format!("watch=true&{query}")).0, 422, "{query}");
    }
}
