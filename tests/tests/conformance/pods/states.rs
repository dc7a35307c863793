//! The states of certificates of pods, and how they are reported.

use perennial_kubernetes::pods::PodCertificateState as State;
use perennial_tests::simulation::{HOUR, MESH, MINUTE, START};

use super::MANAGER;
use super::scenes::*;
use crate::{Row, different, same};

const NO_EVENTS: &str = "a library writes no events into its program's cluster; its statuses have the same states";

pub(crate) const ROWS: &[Row] = &[
    same(MANAGER, "state not_yet_issued: no request, or one that waits", "the same state", || {
        let mut node = node(ignoring());
        assert_eq!(state(&node), State::NotYetIssued);
        node.run(MINUTE);
        assert_eq!((node.server.pod_requests().len(), state(&node)), (1, State::NotYetIssued));
    }),
    same(MANAGER, "state fresh: until ten minutes after the time to refresh", "the same state", || {
        let mut node = overdue();
        assert_eq!(state(&node), State::Fresh);
        let point = rotation_point(&node);
        node.run(point.after(9 * MINUTE).since(node.server.now().unix));
        assert_eq!(state(&node), State::Fresh);
    }),
    same(MANAGER, "state overdue_for_refresh: from then until notAfter", "the same state", || {
        let mut node = overdue();
        let point = rotation_point(&node);
        node.run(point.after(11 * MINUTE).since(node.server.now().unix));
        assert_eq!(state(&node), State::OverdueForRefresh);
    }),
    same(MANAGER, "state expired: from notAfter on", "the same state", || {
        let mut node = overdue();
        node.run(25 * HOUR);
        assert_eq!(state(&node), State::Expired);
    }),
    same(MANAGER, "state denied", "the same state", || {
        let mut node = node(deciding(denial()));
        node.run(MINUTE);
        assert_eq!(state(&node), State::Denied);
    }),
    same(MANAGER, "state failed", "the same state", || {
        let mut node = node(deciding(failure()));
        node.run(MINUTE);
        assert_eq!(state(&node), State::Failed);
    }),
    different(
        MANAGER,
        "event CertificateOverdueForRefresh, once",
        "the state, and the error that causes it",
        NO_EVENTS,
        || {
            let mut node = overdue();
            let point = rotation_point(&node);
            node.run(point.after(11 * MINUTE).since(node.server.now().unix));
            assert_eq!(state(&node), State::OverdueForRefresh);
            assert!(last_error(&node).contains("refused"), "{}", last_error(&node));
        },
    ),
    different(MANAGER, "event CertificateExpired, once", "the state, and the error that causes it", NO_EVENTS, || {
        let mut node = overdue();
        node.run(25 * HOUR);
        assert_eq!(state(&node), State::Expired);
        assert!(last_error(&node).contains("refused"), "{}", last_error(&node));
    }),
    different(
        MANAGER,
        "event of a denial or failure",
        "the reason and the message of the signer, in the last error",
        NO_EVENTS,
        || {
            for decision in [denial(), failure()] {
                let mut node = node(deciding(decision));
                node.run(MINUTE);
                assert!(
                    last_error(&node).contains("NotToday") && last_error(&node).contains("ask Ann"),
                    "{}",
                    last_error(&node)
                );
            }
        },
    ),
    same(MANAGER, "MetricReport", "signer and state of each source of each pod", || {
        let root = tempfile::tempdir().unwrap();
        let (pods, _task) = manager(root.path());
        pods.put(pod(root.path()), START).unwrap();
        let statuses = pods.statuses(START);
        let report: Vec<_> = statuses.iter().map(|status| (&*status.signer_name, status.state.name())).collect();
        assert_eq!(report, [(MESH, "not_yet_issued"), ("example.com/other", "not_yet_issued")]);
    }),
];
