//! The state of all members in one line, for systemd's STATUS.

/// The activity of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::run) enum Activity {
    /// The certificate is valid and not due.
    Resting,
    /// A request is in flight or is about to be submitted.
    Requesting,
    /// The member waits: for another member, or for its turn.
    Waiting,
    /// The last operation failed, or the member could not be started.
    Failing,
}

/// Most names of failing members in a summary.
const MOST_NAMES: usize = 5;

/// Summarizes the activities of members: `200 certificates: 199 resting, 1 failing: NAME`.
pub(super) fn summary<'a>(members: impl Iterator<Item = (&'a str, Activity)>) -> String {
    let members: Vec<_> = members.collect();
    let named = [
        (Activity::Resting, "resting"),
        (Activity::Requesting, "requesting"),
        (Activity::Waiting, "waiting"),
        (Activity::Failing, "failing"),
    ];
    let of = |wanted: Activity| members.iter().filter(move |(_, activity)| *activity == wanted);
    let counts = named.map(|(activity, word)| (of(activity).count(), word));
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    let failing: Vec<&str> = of(Activity::Failing).map(|(name, _)| *name).collect();
    let names = match failing.len() {
        0 => String::new(),
        1..=MOST_NAMES => format!(": {}", failing.join(", ")),
        many => format!(": {} and {} more", failing[..MOST_NAMES].join(", "), many - MOST_NAMES),
    };
    let noun = if members.len() == 1 { "certificate" } else { "certificates" };
    format!("{} {noun}: {counts}{names}", members.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_counts_members_and_names_failing_ones() {
        let mut members = vec![("etcd", Activity::Failing)];
        members.extend([("proxy", Activity::Resting); 199]);
        assert_eq!(summary(members.iter().copied()), "200 certificates: 199 resting, 1 failing: etcd");
        assert_eq!(summary([("a", Activity::Waiting)].into_iter()), "1 certificate: 1 waiting");
        let failing = summary([("a", Activity::Failing); 7].into_iter());
        assert_eq!(failing, "7 certificates: 7 failing: a, a, a, a, a and 2 more");
    }
}
