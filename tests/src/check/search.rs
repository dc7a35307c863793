//! Breadth first through every state there is, on every core, with the shortest way to whatever breaks a law.
//!
//! Layer by layer: threads expand shares of a layer and look only at what earlier layers have found; what they
//! bring is put together in order, so that the result does not depend on their number. A state is known again by 64
//! bits: that two of a few million are taken for one has a chance of less than one in a million.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use perennial::Event;

use super::life::Life;
use super::setting::{Move, Setting};
use crate::subject::{Duties, Subject};

/// What a search found.
#[derive(Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps from one to another, or to itself.
    pub steps: usize,
    /// Steps from a beginning to the furthest state.
    pub depth: usize,
    /// There are no more.
    pub closed: bool,
    /// How often each of the setting's moves was possible.
    pub taken: Vec<usize>,
    /// The shortest way to a broken law.
    pub broken: Option<Counterexample>,
}

/// How to break a law.
#[derive(Debug)]
pub struct Counterexample {
    /// Which, and how.
    pub law: String,
    /// What led to it, line by line.
    pub lines: Vec<String>,
}

/// A state found, and how it was come to.
#[derive(Clone, Copy)]
struct Node {
    /// The state before; for a beginning, itself.
    from: u32,
    by: u16,
}

/// What a thread brings back from its share of a layer.
struct Found<S> {
    lives: Vec<(u64, Node, Life<S>)>,
    taken: Vec<usize>,
    broken: Option<(Node, String)>,
}

/// Looks at every state of this world, but no more than its setting allows (by a layer).
pub fn search<S: Subject>(setting: &Setting, threads: usize) -> Explored {
    let mut known = HashSet::new();
    let mut nodes = Vec::new();
    let mut layer = Vec::new();
    for life in Life::<S>::beginnings(setting) {
        known.insert(life.key(setting));
        layer.push((index(&nodes), life));
        nodes.push(Node { from: index(&nodes), by: 0 });
    }
    let mut outcome =
        Explored { states: 0, steps: 0, depth: 0, closed: false, taken: vec![0; setting.moves.len()], broken: None };
    while outcome.broken.is_none() && !layer.is_empty() && nodes.len() < setting.most {
        let share = layer.len().div_ceil(threads);
        let found: Vec<Found<S>> = std::thread::scope(|scope| {
            let shares = layer.chunks(share).map(|share| scope.spawn(|| expand(setting, share, &known)));
            let shares: Vec<_> = shares.collect();
            shares.into_iter().map(|share| share.join().expect("no law panics")).collect()
        });
        layer = Vec::new();
        for Found { lives, taken, broken } in found {
            outcome.taken.iter_mut().zip(taken).for_each(|(sum, taken)| *sum += taken);
            if let (None, Some((node, law))) = (&outcome.broken, broken) {
                outcome.broken = Some(Counterexample { law, lines: lines::<S>(setting, &nodes, node) });
            }
            for (key, node, life) in lives {
                if known.insert(key) {
                    layer.push((index(&nodes), life));
                    nodes.push(node);
                }
            }
        }
        outcome.depth += usize::from(!layer.is_empty());
    }
    outcome.closed = layer.is_empty();
    outcome.states = nodes.len();
    outcome.steps = outcome.taken.iter().sum();
    outcome
}

fn index(nodes: &[Node]) -> u32 {
    u32::try_from(nodes.len()).expect("fewer states than fit into memory")
}

/// Everything that can happen in these states.
fn expand<S: Subject>(setting: &Setting, share: &[(u32, Life<S>)], known: &HashSet<u64>) -> Found<S> {
    let mut found = Found { lives: Vec::new(), taken: vec![0; setting.moves.len()], broken: None };
    let mut fresh = HashSet::new();
    for (from, life) in share {
        if let Err(law) = life.is_lawful() {
            found.broken = Some((Node { from: *from, by: NO_MOVE }, law));
            return found;
        }
        for (by, what) in (0..).zip(&setting.moves) {
            if !life.allows(*what) {
                continue;
            }
            found.taken[usize::from(by)] += 1;
            let node = Node { from: *from, by };
            match life.after(setting, *what) {
                Ok(next) => {
                    let key = next.key(setting);
                    if !known.contains(&key) && fresh.insert(key) {
                        found.lives.push((key, node, next));
                    }
                }
                Err(law) => {
                    found.broken = Some((node, law));
                    return found;
                }
            }
        }
    }
    found
}

const NO_MOVE: u16 = u16::MAX;

/// Goes the whole way once more, and writes down each step.
fn lines<S: Subject>(setting: &Setting, nodes: &[Node], last: Node) -> Vec<String> {
    let mut way = vec![last];
    let mut at = last.from;
    while nodes[at as usize].from != at {
        way.push(nodes[at as usize]);
        at = nodes[at as usize].from;
    }
    let mut life = Life::<S>::beginnings(setting).swap_remove(at as usize);
    let mut lines = vec![format!("{} | begin | {}", life.now, life.subject.machine())];
    for node in way.into_iter().rev().filter(|node| node.by != NO_MOVE) {
        let what = setting.moves[usize::from(node.by)];
        let (next, told) = life.retrace(setting, what);
        lines.push(line(&next, what, told));
        life = next;
    }
    lines
}

/// A step of a trace, as [`TraceLine`](perennial::TraceLine) shows it.
fn line<S: Subject>(life: &Life<S>, what: Move, told: Option<(Event, Duties)>) -> String {
    let (now, machine) = (life.now, life.subject.machine());
    match told {
        Some((event, duties)) => format!("{now} | {event} -> {duties} | {machine}"),
        None => format!("{now} | {what} | {machine}"),
    }
}

/// A law, and the way to break it.
impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "broken: {}", self.law)
    }
}

/// Whether states that are taken for one do the same: looks at so many states of a world, keeps each, and whenever
/// another has the key of one of them, compares where everything that can happen leads them.
///
/// # Errors
/// Two states that should not be taken for one. Else, how many pairs were compared.
pub fn keys_tell_all<S: Subject>(setting: &Setting, most: usize) -> Result<usize, String> {
    let mut known: HashMap<u64, Life<S>> = HashMap::new();
    let mut queue: VecDeque<u64> = VecDeque::new();
    let mut compared = 0;
    let successors = |life: &Life<S>| -> Vec<Option<Result<u64, String>>> {
        let after = |what: &Move| life.after(setting, *what).map(|next| next.key(setting));
        setting.moves.iter().map(|what| life.allows(*what).then(|| after(what))).collect()
    };
    let mut find = |life: Life<S>, queue: &mut VecDeque<u64>, known: &mut HashMap<u64, Life<S>>| {
        let key = life.key(setting);
        let Some(same) = known.get(&key) else {
            known.insert(key, life);
            queue.push_back(key);
            return Ok(());
        };
        compared += 1;
        let (these, those) = (successors(same), successors(&life));
        match these.iter().zip(&those).position(|(this, that)| this.is_some() != that.is_some() || this != that) {
            Some(by) => Err(format!("{:?} tells them apart:\n{same:?}\n{life:?}", setting.moves[by])),
            None => Ok(()),
        }
    };
    for life in Life::beginnings(setting) {
        find(life, &mut queue, &mut known)?;
    }
    while let Some(key) = queue.pop_front().filter(|_| known.len() < most) {
        let life = known[&key].clone();
        for what in setting.moves.iter().filter(|what| life.allows(**what)) {
            find(life.after(setting, *what)?, &mut queue, &mut known)?;
        }
    }
    Ok(compared)
}
