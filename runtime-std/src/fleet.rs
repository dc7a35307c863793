//! Runs a fleet: one thread for any number of certificates, and further threads only while there is work for them.

use std::thread;

use perennial_rotation::{Fleet, FleetTask, Limits, StartError, clock};

use crate::threads::Threads;

/// Starts a fleet on a thread of its own, which ends after [`Fleet::shutdown`], or once all clones of the [`Fleet`] are
/// dropped and all members have ended. [`Fleet::add`] adds certificates.
///
/// Each request in flight has a thread; stores and key sources are called on a few more. If such a call hangs, another
/// thread takes over the calls for other members. A thread without work ends after a few seconds.
///
/// # Examples
/// The client certificate and the serving certificate of a node, and the news of both:
///
/// ```no_run
/// # use std::sync::Arc;
/// use perennial_kubernetes::CsrSigner;
/// use perennial_std::{Limits, MemberNotice, News, Rotator, Template, tls};
///
/// # use perennial_kubernetes::cluster::Cluster;
/// # use perennial_std::Token;
/// # fn example(cluster: Arc<Cluster>, token: Token) -> Result<(), Box<dyn std::error::Error>> {
/// let fleet = perennial_std::fleet(Limits { in_flight: 8.try_into()?, ..Limits::default() })?;
/// let mut notices = fleet.notices(1000);
/// let client = CsrSigner::kubelet_client(cluster.clone(), Some(Arc::new(token)));
/// let client = Rotator::new().name("client").template(Template::node("worker-1")).signer(client);
/// let client = fleet.add(client)?;
/// // Requests for this certificate authenticate with that of `client`, and wait until there is one.
/// let serving = CsrSigner::kubelet_serving(cluster, Arc::new(client.clone()));
/// let template = Template::node("worker-1").with_dns_names(["worker-1"]);
/// let serving = fleet.add(Rotator::new().name("serving").template(template).signer(serving))?;
/// let server = tls::server_config(&serving);
/// while let Some(MemberNotice { member, notice, .. }) = notices.recv().wait() {
///     match notice.news {
///         News::Issued { .. } => println!("{}: a new certificate", member.name()),
///         News::Failed { error, .. } => println!("{}: {error}", member.name()),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// The operating system cannot start a thread.
pub fn fleet(limits: Limits) -> Result<Fleet, StartError> {
    let (fleet, task) = Fleet::prepare(limits);
    let spawned = thread::Builder::new().name("perennial-fleet".into()).spawn(|| run(task));
    spawned.map(|_| fleet).map_err(StartError::Thread)
}

/// Runs the task to its end, on the calling thread.
fn run(mut task: FleetTask) {
    let mut threads = Threads::of_fleet();
    while !task.is_over() {
        task.step(clock::now()).into_iter().for_each(|(member, work)| threads.begin(member, work));
        if !task.is_over() {
            let waits = threads.relieve().into_iter().chain(task.deadline().map(clock::until)).min();
            task.arrival().within(waits);
        }
    }
}
