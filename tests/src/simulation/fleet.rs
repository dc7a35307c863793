//! A fleet: many machines, each in a world of its own, that share the time. The next step of the fleet is that of the
//! world whose step is due earliest.

use std::time::Duration;

use perennial::{Instant, Now, Setup};

use super::world::World;
use super::{Agenda, Clocks, Entry, Member};

/// Any number of machines, each in a [`World`] of its own, that share the time.
#[derive(Debug)]
pub struct Fleet {
    worlds: Vec<World>,
    clocks: Clocks,
    /// The index of each world in `worlds`, entered at the time of that world's next step.
    agenda: Agenda<usize>,
    /// The entry in `agenda` of each world, by the index of the world; `None`: the world has no next step.
    noted: Vec<Option<Entry>>,
}

impl Fleet {
    /// A fleet of `count` machines that start now, with signers that issue certificates of this lifetime.
    pub fn new(count: usize, setup: impl FnMut(usize) -> Setup, life: Duration) -> Self {
        Self::of((0..count).map(setup).map(|setup| World::new(setup, life)).collect())
    }

    /// A fleet of these worlds. No time may have passed in any of them.
    pub fn of(worlds: Vec<World>) -> Self {
        let count = worlds.len();
        let (clocks, agenda) = (Clocks::default(), Agenda::default());
        let mut fleet = Self { worlds, clocks, agenda, noted: vec![None; count] };
        (0..count).for_each(|i| fleet.note(i));
        fleet
    }

    /// The worlds, in the order of their machines.
    pub fn worlds(&self) -> &[World] {
        &self.worlds
    }

    /// Sets the clocks of each world to the time of the fleet, then calls `happens` with the index of the world and the
    /// world.
    pub fn each(&mut self, mut happens: impl FnMut(usize, &mut World)) {
        for i in 0..self.worlds.len() {
            self.catch_up(i);
            happens(i, &mut self.worlds[i]);
            self.note(i);
        }
    }

    /// Runs as [`Member::run_for`] does, then sets the clocks of each world to the time of the fleet.
    pub fn run_for(&mut self, span: Duration, most: usize) -> bool {
        let ran = Member::run_for(self, span, most);
        self.each(|_, _| {});
        ran
    }

    /// The time of every submission of every machine, in order.
    pub fn submissions(&self) -> Vec<Instant> {
        let steps = self.worlds.iter().flat_map(|world| world.trace.steps());
        let mut all: Vec<Instant> =
            steps.filter(|(_, record)| record.submitted().is_some()).map(|(_, record)| record.now.instant).collect();
        all.sort_unstable();
        all
    }

    fn catch_up(&mut self, i: usize) {
        let world = &mut self.worlds[i];
        world.pass(self.clocks.now.instant.since(world.now().instant));
    }

    fn note(&mut self, i: usize) {
        let next = self.worlds[i].next_at();
        if self.noted[i].map(|(at, _)| at) != next {
            self.noted[i].take().into_iter().for_each(|entry| self.agenda.strike(entry));
            self.noted[i] = next.map(|at| self.agenda.note(at, i));
        }
    }
}

/// While time passes, only the clocks of the fleet advance. The clocks of a world are set to the time of the fleet when
/// the world makes a step.
impl Member for Fleet {
    fn now(&self) -> Now {
        self.clocks.now
    }

    fn next_at(&self) -> Option<Instant> {
        self.agenda.first().map(|(at, _)| at)
    }

    fn pass(&mut self, span: Duration) {
        self.clocks.pass(span);
    }

    /// Makes one step: that of the world whose step is due earliest.
    fn act(&mut self) {
        let now = self.now().instant;
        let Some((_, &i)) = self.agenda.first().filter(|(at, _)| *at <= now) else { return };
        self.catch_up(i);
        self.worlds[i].act();
        self.note(i);
    }
}

/// The greatest number of `instants` that lie within one period of length `span`.
pub fn worst(instants: &[Instant], span: Duration) -> usize {
    let within = |i: usize| instants[i..].iter().take_while(|at| at.since(instants[i]) < span).count();
    (0..instants.len()).map(within).max().unwrap_or(0)
}
