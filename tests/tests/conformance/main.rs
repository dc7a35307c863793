//! Upstream's test cases, each as a row of a table: the name of the case, the behaviour of perennial in the case, and a
//! check of that behaviour. If perennial differs from upstream on purpose, the row also states the reason, and its
//! check fails without the difference.
//!
//! `cargo test --profile proof -p perennial-tests --test conformance -- --nocapture` prints the number of cases.

mod approver;
mod authority;
mod beyond;
mod cleaner;
mod csr;
mod kubelet;
mod machine;
mod manager;
mod pods;
mod signer;
mod store;

use std::collections::BTreeSet;
use std::panic::catch_unwind;

/// A test case of upstream (Kubernetes or client-go), and the check of how perennial behaves in it.
struct Row {
    /// The name of the case, as upstream writes it: test, then case.
    name: &'static str,
    /// The file of upstream that contains the test. If upstream has no test for the case, the file that contains the
    /// code.
    source: &'static str,
    /// The behaviour of perennial in this case, in words.
    does: &'static str,
    /// The reason why perennial behaves differently from upstream; `None`: perennial behaves as upstream does.
    differs: Option<&'static str>,
    /// Panics if perennial does not behave as `does` states.
    check: fn(),
}

/// A case in which perennial behaves as upstream does.
const fn same(source: &'static str, name: &'static str, does: &'static str, check: fn()) -> Row {
    Row { name, source, does, differs: None, check }
}

/// A case in which perennial differs from upstream, for the reason `why`.
const fn different(
    source: &'static str,
    name: &'static str,
    does: &'static str,
    why: &'static str,
    check: fn(),
) -> Row {
    Row { name, source, does, differs: Some(why), check }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    let tables = [
        machine::ROWS,
        manager::ROWS,
        store::ROWS,
        csr::ROWS,
        signer::ROWS,
        authority::ROWS,
        approver::ROWS,
        cleaner::ROWS,
        kubelet::ROWS,
        pods::requests::ROWS,
        pods::states::ROWS,
        pods::life::ROWS,
        beyond::ROWS,
    ];
    tables.into_iter().flatten()
}

/// Runs the check of each row. Returns a line for each row whose check panicked: source, name and expected behaviour.
fn broken<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let broken = rows.filter(|row| catch_unwind(row.check).is_err());
    broken.map(|row| format!("{} {}: {}\n", row.source, row.name, row.does)).collect()
}

#[test]
fn each_row_of_the_conformance_tables_holds() {
    let broken = broken(rows());
    assert!(broken.is_empty(), "these do not hold:\n{broken}");
    println!("rows: {} different: {}", rows().count(), rows().filter(|row| row.differs.is_some()).count());
}

#[test]
fn row_whose_check_fails_is_reported_by_name() {
    const WRONG: &Row = &same("x_test.go", "TestX/wrong", "something else", || assert!(rows().next().is_none()));
    assert_eq!(broken([WRONG].into_iter().chain(rows().take(1))), "x_test.go TestX/wrong: something else\n");
}

/// `upstream.txt` is a list of all cases, written by hand. If a row is lost from a table, the comparison with the list
/// fails.
#[test]
fn every_upstream_case_has_a_row() {
    let listed: BTreeSet<&str> = include_str!("upstream.txt").lines().collect();
    let names: Vec<String> = rows().map(|row| format!("{} {}", row.source, row.name)).collect();
    let there: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let (lost, new): (Vec<_>, Vec<_>) = (listed.difference(&there).collect(), there.difference(&listed).collect());
    assert!(lost.is_empty() && new.is_empty(), "no row for {lost:#?}\nnot in the list: {new:#?}");
}

#[test]
fn no_upstream_case_is_in_the_tables_twice() {
    let names: Vec<(&str, &str)> = rows().map(|row| (row.source, row.name)).collect();
    let distinct: BTreeSet<&(&str, &str)> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
    assert!(rows().all(|row| !row.does.is_empty() && row.differs.is_none_or(|why| !why.is_empty())));
}
