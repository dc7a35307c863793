//! Snapshots of the machine's transcripts in the main situations, one line per step: time, event → actions | state.
//!
//! To accept new snapshots after a change of behaviour: `INSTA_UPDATE=always cargo test -p perennial-tests --test
//! transcripts`, then read the difference.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Event, Failure, Policy, Setup, Template};
use perennial_tests::mint;
use perennial_tests::simulation::Member as _;
use perennial_tests::simulation::world::{Answer, DiskHabit, Flaw, Issue, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The transcript of a simulated machine. Leaves out each Tick that leads to no action, or only sets the timer.
fn transcript(world: &World) -> String {
    let idle = |line: &&str| {
        let (_, step) = line.split_once(" | ").expect("time first");
        !(step.starts_with("Tick -> nothing") || step.starts_with("Tick -> SetTimer"))
    };
    world.transcript().lines().filter(idle).fold(String::new(), |text, line| text + line + "\n")
}

fn node() -> Template {
    Template::node("worker-1")
}

fn with_name() -> Template {
    node().with_dns_names(["worker-1.example"])
}

fn setup(template: Template) -> Setup {
    let seed = perennial::seed("kubernetes.io/kube-apiserver-client-kubelet", template.common_name());
    Setup { seed, template: Some(Arc::new(template)), ..Setup::default() }
}

/// A simulated machine with a certificate of a day, and a signer that answers after two seconds.
fn holder() -> World {
    let certificate = mint::certificate(&node(), 1, mint::EPOCH, DAY);
    let mut world = World::new(Setup { certificate: Some(Arc::new(certificate)), ..setup(node()) }, DAY);
    world.habit = Answer::healthy(DAY).after(2 * SECOND);
    world
}

/// A simulated machine without a certificate, and a signer that answers after two seconds.
fn newcomer(template: Template) -> World {
    let mut world = World::new(setup(template), DAY);
    world.habit = Answer::healthy(DAY).after(2 * SECOND);
    world
}

macro_rules! scene {
    ($world:expr) => {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "snapshots" }, {
            insta::assert_snapshot!(transcript(&$world));
        });
    };
}

#[test]
fn first_certificate_is_requested_at_start() {
    let mut world = newcomer(node());
    world.run_for(MINUTE, 100);
    scene!(world);
}

#[test]
fn certificates_are_rotated_over_two_days() {
    let mut world = holder();
    world.run_for(2 * DAY, 10_000);
    scene!(world);
}

#[test]
fn denied_request_is_retried_with_backoff_until_approved() {
    let mut world = holder();
    let no = Answer::fail(Failure::Denied).after(30 * SECOND);
    world.next_answers.extend([no.clone(), no.clone(), no]);
    world.run_for(22 * HOUR, 10_000);
    scene!(world);
}

#[test]
fn unapproved_request_is_repeated_with_the_same_key() {
    let mut world = newcomer(node());
    world.habit = Answer::lose();
    world.run_for(2 * HOUR, 10_000);
    scene!(world);
    world.run_for(22 * HOUR, 10_000);
    let keys = world.transcript().matches("new key").count();
    assert_eq!(keys, 1, "one request object, however long it takes");
}

#[test]
fn expiring_certificate_is_replaced_after_api_outage() {
    let ten_minutes_left = mint::certificate(&node(), 1, mint::EPOCH.before(DAY - 10 * MINUTE), DAY);
    let mut world = World::new(Setup { certificate: Some(Arc::new(ten_minutes_left)), ..setup(node()) }, DAY);
    world.habit = Answer::fail(Failure::Unreachable).after(SECOND);
    world.run_for(9 * MINUTE, 1000);
    world.habit = Answer::healthy(DAY).after(SECOND);
    world.run_for(2 * MINUTE, 1000);
    scene!(world);
}

#[test]
fn template_changes_supersede_the_request_in_flight() {
    let mut world = newcomer(node());
    world.habit = Answer::healthy(DAY).after(20 * SECOND);
    world.step();
    world.handle(Event::TemplateChanged(Some(Arc::new(with_name()))));
    world.run_for(5 * SECOND, 100);
    world.handle(Event::TemplateChanged(Some(Arc::new(node()))));
    world.handle(Event::TemplateChanged(Some(Arc::new(with_name()))));
    world.run_for(MINUTE, 100);
    scene!(world);
}

#[test]
fn write_is_repeated_until_full_disk_works() {
    let mut world = newcomer(node());
    world.disk = (DiskHabit::Full, Duration::from_millis(20));
    world.run_for(10 * MINUTE, 1000);
    world.disk = (DiskHabit::Works, Duration::from_millis(20));
    world.run_for(2 * MINUTE, 1000);
    scene!(world);
}

#[test]
fn certificate_is_rotated_after_suspend_past_rotation_point() {
    let mut world = holder();
    world.run_for(HOUR, 1000);
    world.clocks.step_wall_clock(22 * 3_600_000);
    world.run_for(2 * MINUTE, 100);
    scene!(world);
}

#[test]
fn restart_repeats_the_request_in_flight() {
    let mut world = newcomer(node());
    world.habit = Answer::healthy(DAY).after(10 * MINUTE);
    world.run_for(3 * MINUTE, 100);
    world.restart();
    world.run_for(15 * MINUTE, 100);
    scene!(world);
}

#[test]
fn restarts_after_a_denial_keep_its_backoff() {
    let mut world = newcomer(node());
    world.habit = Answer::fail(Failure::Denied).after(SECOND);
    world.run_for(5 * SECOND, 100);
    for _ in 0..3 {
        world.restart();
        world.run_for(10 * SECOND, 100);
    }
    world.run_for(5 * MINUTE, 100);
    scene!(world);
}

#[test]
fn signer_that_omits_names_leads_to_growing_backoff() {
    let mut world = newcomer(with_name());
    world.habit = Answer::issue(Issue { life: DAY, backdate: 5 * MINUTE, flaw: Flaw::Trimmed }).after(SECOND);
    world.run_for(2 * HOUR, 1000);
    scene!(world);
}

/// The backoff of client-go is 2, 4, 8 and 16 s (each up to 10 % longer). Then attempts begin at ticks of 32 s, however
/// long an attempt takes.
#[test]
fn kubelet_policy_retries_as_client_go_while_api_is_down() {
    let policy = Arc::new(Policy::kubelet());
    let mut world = World::new(Setup { policy, ..setup(node()) }, DAY);
    world.habit = Answer::fail(Failure::Unreachable).after(3 * SECOND);
    world.run_for(4 * MINUTE, 1000);
    scene!(world);
}
