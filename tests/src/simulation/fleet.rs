//! Many worlds, one time: each step is the earliest there is among all of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use perennial::{Instant, Setup};

use super::world::World;

/// Any number of machines, each in a world of its own, that share the time.
#[derive(Debug)]
pub struct Fleet {
    worlds: Vec<World>,
    /// When a world has something to do. It may have changed its mind since: then another entry says so.
    agenda: BinaryHeap<Reverse<(Instant, usize)>>,
    now: Instant,
}

impl Fleet {
    /// So many machines that start now, the signer issuing certificates of this lifetime.
    pub fn new(count: usize, setup: impl FnMut(usize) -> Setup, life: Duration) -> Self {
        Self::of((0..count).map(setup).map(|setup| World::new(setup, life)).collect())
    }

    /// These worlds, all of which begin now.
    pub fn of(worlds: Vec<World>) -> Self {
        let count = worlds.len();
        let mut fleet = Self { worlds, agenda: BinaryHeap::new(), now: Instant::default() };
        (0..count).for_each(|i| fleet.note(i));
        fleet
    }

    /// The worlds, in the order of their machines.
    pub fn worlds(&self) -> &[World] {
        &self.worlds
    }

    /// Something happens to each of them, by its number, now.
    pub fn each(&mut self, mut happens: impl FnMut(usize, &mut World)) {
        for i in 0..self.worlds.len() {
            let world = &mut self.worlds[i];
            let noted = world.next_at();
            world.pass(self.now.since(world.now.instant));
            happens(i, world);
            if world.next_at() != noted {
                self.note(i);
            }
        }
    }

    /// The earliest thing there is to do, in whichever world. False if nothing will ever happen by itself.
    pub fn step(&mut self) -> bool {
        let Some((at, i)) = self.earliest() else { return false };
        self.agenda.pop();
        self.worlds[i].step();
        self.now = self.now.max(at);
        self.note(i);
        true
    }

    /// When the next step is, and whose. What a world no longer wants is struck off on the way.
    fn earliest(&mut self) -> Option<(Instant, usize)> {
        while let Some(&Reverse((at, i))) = self.agenda.peek() {
            if self.worlds[i].next_at() == Some(at) {
                return Some((at, i));
            }
            self.agenda.pop();
        }
        None
    }

    /// Every step of this span, but no more than `most`. False if there were more: somebody spins.
    pub fn run_for(&mut self, span: Duration, most: usize) -> bool {
        let end = self.now.after(span);
        for _ in 0..most {
            if self.earliest().is_none_or(|(at, _)| at > end) {
                self.now = end;
                self.each(|_, _| {});
                return true;
            }
            self.step();
        }
        false
    }

    /// When requests were made, by whichever machine.
    pub fn submissions(&self) -> Vec<Instant> {
        let steps = self.worlds.iter().flat_map(|world| world.trace.steps());
        let mut all: Vec<Instant> =
            steps.filter(|(_, record)| record.submitted().is_some()).map(|(_, record)| record.now.instant).collect();
        all.sort_unstable();
        all
    }

    fn note(&mut self, i: usize) {
        self.agenda.extend(self.worlds[i].next_at().map(|at| Reverse((at, i))));
    }
}

/// The most of these instants within any such span.
pub fn worst(instants: &[Instant], span: Duration) -> usize {
    let within = |i: usize| instants[i..].iter().take_while(|at| at.since(instants[i]) < span).count();
    (0..instants.len()).map(within).max().unwrap_or(0)
}
