//! The page for people at `/`: HTML without scripts that loads nothing.

mod certificate;
mod condition;
mod life;

use std::fmt::Write as _;

use perennial::Now;
use rustix::system::uname;

use super::About;
use super::html::{Text, Time};
use super::view::CertView;
use crate::bundle_file::{BundleView, Problem};
use crate::kubeconfigs::Server;
use certificate::Shown;
use condition::{Level, condition};
use life::LEGEND;

/// The query with which the page loads itself again every 30 seconds. Without the query, the page stays as it is: a
/// page that changes by itself disturbs the users of screen readers (WCAG 2.2, failure F41).
pub(super) const REFRESH: &str = "refresh";
/// The Content-Security-Policy of the page: no script, nothing from elsewhere, and only the style sheet [`STYLE`], by
/// its SHA-256. The icon is an empty `data:` URL, which keeps browsers from a request for `/favicon.ico`.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-Run/9PsuY7NXDZbFc7tuZ1hA8JYO0UopVjb0fcAhiYk='; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = include_str!("overview/style.css");
/// Most certificates that the page shows with all details at once.
const MOST_DETAILED: usize = 6;

/// State of the process, beside the state of the certificates.
pub(super) struct Process<'a> {
    pub(super) about: &'a About,
    /// The API servers of the running configuration; empty before the first rotation has started.
    pub(super) servers: &'a [Server],
    pub(super) bundles: &'a [BundleView],
    /// The reasons why `/healthz` answers 503, a line each; empty if there are none.
    pub(super) why_not_alive: String,
}

/// Formats the page: the certificates, those that need a person first. With `refresh`, a browser loads the page again
/// every 30 seconds.
pub(super) fn page(views: Vec<CertView>, process: &Process<'_>, refresh: bool, now: Now) -> String {
    let certificates = sorted(views, process.about, now);
    let host = uname().nodename().to_string_lossy().into_owned();
    let (host, summary) = (Text(&host), summary(&certificates));
    let (meta, other, toggle) = match refresh {
        true => ("<meta http-equiv=\"refresh\" content=\"30\">", "/", "stop reloading"),
        false => ("", "/?refresh", "reload every 30 s"),
    };
    let is_few = certificates.len() <= MOST_DETAILED;
    let class = if is_few { "" } else { " class=\"many\"" };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{host}: {summary}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">{meta}\
         <style>{STYLE}</style></head><body><header><h1>{host}</h1><p class=\"summary\">{summary}</p>\
         <p>As of {}. <a href=\"{other}\">{toggle}</a></p></header><main{class}>",
        Time(now.unix)
    );
    write_process_problems(&mut page, process);
    let troubled = certificates.iter().filter(|shown| shown.condition.0 < Level::Good).count();
    for (place, shown) in certificates.iter().enumerate() {
        shown.write(&mut page, is_few || place < troubled.min(MOST_DETAILED), now);
    }
    if !certificates.is_empty() {
        page.push_str(LEGEND);
    }
    let bundles = process.bundles.iter().map(|bundle| ("Trust bundle", bundle.lines()));
    let servers = process.servers.iter().map(|server| ("API server", server.lines()));
    for (heading, lines) in bundles.chain(servers) {
        // Writing to a string does not fail, here and below.
        let _ = write!(page, "<section><h2>{heading}</h2><dl>");
        for (name, value) in lines {
            let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", Text(name), Text(&value));
        }
        page.push_str("</dl></section>");
    }
    let _ = writeln!(
        page,
        "</main><footer>perennial {}, runtime {}. For programs: <a href=\"/metrics\">/metrics</a>, \
         <a href=\"/state\">/state</a>, <a href=\"/healthz\">/healthz</a>, <a href=\"/readyz\">/readyz</a>\
         </footer></body></html>",
        env!("CARGO_PKG_VERSION"),
        process.about.runtime,
    );
    page
}

/// The certificates with their conditions: those in trouble first, then by the end of validity, then by name.
fn sorted(views: Vec<CertView>, about: &About, now: Now) -> Vec<Shown> {
    // Cloned, not locked while the page is made: the threads of `--on-rotated` need the lock.
    let debts = about.debts.as_ref().map(|debts| debts.all().clone()).unwrap_or_default();
    let shown = |view: CertView| {
        let debt = debts.get(&view.name).cloned();
        let condition = condition(&view, debt.as_ref(), now);
        Shown { view, debt, condition }
    };
    let mut certificates: Vec<Shown> = views.into_iter().map(shown).collect();
    certificates.sort_by_cached_key(|shown| {
        let end = shown.view.certificate().map(|certificate| certificate.validity.not_after());
        (shown.condition.0, end, shown.view.name.clone())
    });
    certificates
}

/// The number of certificates in each condition: `3 certificates (expired: 1, good: 2)`.
fn summary(certificates: &[Shown]) -> String {
    let noun = if certificates.len() == 1 { "certificate" } else { "certificates" };
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for (_, words) in certificates.iter().map(|shown| shown.condition) {
        match counts.iter_mut().find(|(counted, _)| *counted == words) {
            Some((_, count)) => *count += 1,
            None => counts.push((words, 1)),
        }
    }
    let counts: Vec<String> = counts.iter().map(|(words, count)| format!("{words}: {count}")).collect();
    let counts = if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
    format!("{} {noun}{counts}", certificates.len())
}

/// Writes the problems that concern no single certificate: rotations that hang, a failing journal, dropped output, and
/// a clock that differs from the API server's.
fn write_process_problems(page: &mut String, process: &Process<'_>) {
    let mut problem = |problem: &str, remedy: &str| {
        let _ =
            write!(page, "<div class=\"problem\"><p>{}</p><p><b>To do:</b> {remedy}.</p></div>", Text(problem.trim()));
    };
    let about = process.about;
    if !process.why_not_alive.is_empty() {
        problem(&process.why_not_alive, "restart perennial, and report this as a bug");
    }
    if let Some(journal) = &about.journal {
        if let Some(trouble) = journal.trouble() {
            problem(
                &trouble,
                "make room for the file of --journal, or make it writable; rotation does not need the journal",
            );
        } else if journal.lost() > 0 {
            let lost = format!(
                "The journal lacks {} steps: the disk of --journal was full, failing or too slow.",
                journal.lost()
            );
            problem(&lost, "nothing, if the disk works again");
        }
    }
    for bundle in process.bundles {
        if let Some(Problem { why, remedy }) = &bundle.problem {
            problem(&format!("Trust bundle {}: {}: {why}", bundle.path.display(), bundle.selection), remedy);
        }
    }
    for (name, lines) in about.outputs.iter().filter(|(_, lines)| lines.dropped() > 0) {
        let dropped = format!("{} lines for {name} were dropped.", lines.dropped());
        problem(&dropped, "check the program that reads this output: it was too slow, or its disk was full");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use perennial::{Template, UnixTime};
    use perennial_pki::{Credential, interim, sha256};
    use perennial_rotation::{Memory, Rotator, Store as _};

    use super::super::{BlockedOn, Source};
    use super::*;

    /// A certificate that was issued at the epoch, or no certificate.
    fn view(name: &str, credential: Option<Credential>) -> CertView {
        let store = Memory::default();
        if let Some(credential) = credential {
            store.write(&Arc::new(credential), true, UnixTime::default()).unwrap();
        }
        let (handle, _) = Rotator::new().store(store).prepare().unwrap();
        CertView::new(name.into(), None, Some(&Source::Rotation(handle, BlockedOn::default(), None)))
    }

    fn issued() -> Credential {
        interim(&Template::node("worker"), UnixTime::default()).unwrap()
    }

    fn page_of(views: Vec<CertView>, now: UnixTime) -> String {
        let process = Process { about: &About::default(), servers: &[], bundles: &[], why_not_alive: String::new() };
        page(views, &process, false, Now { unix: now, ..Now::default() })
    }

    /// Checks that each element is closed where HTML demands it, and that no attribute is without quotation marks.
    fn check_elements(page: &str) {
        let mut open = Vec::new();
        for tag in page.split('<').skip(1).map(|rest| rest.split_once('>').unwrap().0) {
            let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{page}");
            } else if !tag.ends_with('/') && !["!DOCTYPE", "meta", "link"].contains(&name) {
                open.push(name);
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        }
        assert_eq!(open, [] as [&str; 0]);
    }

    #[test]
    fn policy_allows_the_style_sheet_by_its_hash() {
        let hash = BASE64_STANDARD.encode(sha256(STYLE.as_bytes()));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
    }

    #[test]
    fn certificates_in_trouble_come_first() {
        let now = issued().chain().certificate().validity.not_after().after(Duration::from_secs(60));
        let valid = interim(&Template::node("worker"), now).unwrap();
        let page = page_of(vec![view("a", Some(valid)), view("b", None), view("c", Some(issued()))], now);
        check_elements(&page);
        assert!(page.contains("3 certificates (no certificate: 1, expired: 1, externally managed: 1)"), "{page}");
        let places = ["b", "c", "a"].map(|name| page.find(&format!("<h2>{name}</h2>")).unwrap());
        assert!(places.is_sorted(), "{page}");
        assert!(page.contains("expired 1 min ago") && page.contains("c: its lifetime of"), "{page}");
    }

    #[test]
    fn many_certificates_show_details_of_first_in_trouble_only() {
        let views = |failing: usize| {
            let of = |place: usize| view(&format!("member-{place:03}"), (place >= failing).then(issued));
            (0..200).map(of).collect()
        };
        for (failing, open) in [(0, 0), (3, 3), (200, MOST_DETAILED)] {
            let page = page_of(views(failing), UnixTime::default());
            check_elements(&page);
            assert_eq!((page.matches("<details").count(), page.matches("\" open>").count()), (200, open));
        }
    }

    #[test]
    fn page_has_no_certificates_before_the_first_start() {
        let page = page_of(Vec::new(), UnixTime::default());
        check_elements(&page);
        assert!(page.contains("0 certificates</p>") && !page.contains("<details"), "{page}");
    }

    #[test]
    fn names_with_markup_are_text() {
        let page = page_of(vec![view("<b onclick=\"x\">'&", Some(issued()))], UnixTime::default());
        check_elements(&page);
        assert!(
            page.contains("<h2>&lt;b onclick=&quot;x&quot;&gt;&#39;&amp;</h2>") && !page.contains("<b o"),
            "{page}"
        );
    }
}
