//! Breadth-first search through every reachable state, on several threads. Reports the shortest path to a broken law.
//!
//! Works layer by layer: a layer holds the states that are equally many steps away from an initial state. Each thread
//! makes every move in its share of the states of a layer, and drops the states that were found in earlier layers. The
//! results of the threads are merged in a fixed order, so that the outcome does not depend on the number of threads. A
//! hash of 64 bits stands for a state: the chance that two of a few million states have the same hash is less than one
//! in a million.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use perennial::Event;

use super::setting::{Move, Setting};
use super::world_state::WorldState;
use crate::subject::{Duties, Subject};

/// The result of [`search`]: the number of states and steps, and the path to the first broken law, if a law was broken.
#[derive(Debug)]
pub struct Explored {
    /// The number of different states.
    pub states: usize,
    /// The number of steps that were tried. Some lead to a new state, others to a known one.
    pub steps: usize,
    /// The number of steps from an initial state to the furthest state.
    pub depth: usize,
    /// True if every reachable state was visited.
    pub closed: bool,
    /// How often each move was made, in the order of [`Setting::moves`].
    pub taken: Vec<usize>,
    /// The shortest path to a broken law; `None` if no law was broken.
    pub broken: Option<Counterexample>,
}

/// A path to a broken law.
#[derive(Debug)]
pub struct Counterexample {
    /// How the law is broken.
    pub law: String,
    /// The steps that lead to the broken law, one line each.
    pub lines: Vec<String>,
}

/// A state that the search has found. Stores only the last step of the shortest path to it: the preceding state, and
/// the move that leads from there.
#[derive(Clone, Copy)]
struct Node {
    /// The index of the preceding state in the list of found states. An initial state has none, and contains its own
    /// index.
    from: u32,
    /// The move that leads from the preceding state to this one, as an index in [`Setting::moves`]. [`NO_MOVE`] marks
    /// the end of a path: the state `from` itself breaks a law.
    by: u16,
}

/// The result of one thread for its share of a layer: the new states, and the first broken law, if there is one.
struct Found<S> {
    states: Vec<(u64, Node, WorldState<S>)>,
    taken: Vec<usize>,
    broken: Option<(Node, String)>,
}

/// Visits every reachable state of a small world, breadth first. Ends after the layer in which a law is broken, or in
/// which the number of found states reaches [`Setting::most`].
pub fn search<S: Subject>(setting: &Setting, threads: usize) -> Explored {
    let mut known = HashSet::new();
    let mut nodes = Vec::new();
    let mut layer = Vec::new();
    for state in WorldState::<S>::initial_states(setting) {
        known.insert(state.key(setting));
        layer.push((index(&nodes), state));
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
        for Found { states, taken, broken } in found {
            outcome.taken.iter_mut().zip(taken).for_each(|(sum, taken)| *sum += taken);
            if let (None, Some((node, law))) = (&outcome.broken, broken) {
                outcome.broken = Some(Counterexample { law, lines: lines::<S>(setting, &nodes, node) });
            }
            for (key, node, state) in states {
                if known.insert(key) {
                    layer.push((index(&nodes), state));
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

/// Makes every possible move in each state of `share`. Returns the new states, whose keys are not in `known`. Ends
/// early if a law is broken, and returns how.
fn expand<S: Subject>(setting: &Setting, share: &[(u32, WorldState<S>)], known: &HashSet<u64>) -> Found<S> {
    let mut found = Found { states: Vec::new(), taken: vec![0; setting.moves.len()], broken: None };
    let mut fresh = HashSet::new();
    for (from, state) in share {
        if let Err(law) = state.check_state() {
            found.broken = Some((Node { from: *from, by: NO_MOVE }, law));
            return found;
        }
        for (by, what) in (0..).zip(&setting.moves) {
            if !state.allows(*what) {
                continue;
            }
            found.taken[usize::from(by)] += 1;
            let node = Node { from: *from, by };
            match state.after(setting, *what) {
                Ok(next) => {
                    let key = next.key(setting);
                    if !known.contains(&key) && fresh.insert(key) {
                        found.states.push((key, node, next));
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

/// Makes the moves of the path to `last` once more, from its initial state. Returns a line for each step.
fn lines<S: Subject>(setting: &Setting, nodes: &[Node], last: Node) -> Vec<String> {
    let mut way = vec![last];
    let mut at = last.from;
    while nodes[at as usize].from != at {
        way.push(nodes[at as usize]);
        at = nodes[at as usize].from;
    }
    let mut state = WorldState::<S>::initial_states(setting).swap_remove(at as usize);
    let mut lines = vec![format!("{} | begin | {}", state.now, state.subject.machine())];
    for node in way.into_iter().rev().filter(|node| node.by != NO_MOVE) {
        let what = setting.moves[usize::from(node.by)];
        let (next, shown) = state.retrace(setting, what);
        lines.push(line(&next, what, shown));
        state = next;
    }
    lines
}

/// The text of a step, in the form of [`TraceLine`](perennial::TraceLine). A step without an event shows the move
/// instead.
fn line<S: Subject>(state: &WorldState<S>, what: Move, shown: Option<(Event, Duties)>) -> String {
    let (now, machine) = (state.now, state.subject.machine());
    match shown {
        Some((event, duties)) => format!("{now} | {event} -> {duties} | {machine}"),
        None => format!("{now} | {what} | {machine}"),
    }
}

/// Shows the steps of the path, then how the law is broken.
impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "broken: {}", self.law)
    }
}

/// Checks that states with equal keys behave alike. Each move must lead from two such states to states with equal keys,
/// or be impossible in both. Visits states of a small world until it has found `most` different keys, or all. Returns
/// the number of pairs of states that were compared.
///
/// # Errors
/// A move that leads from two states with equal keys to states with different keys, or that is possible in only one of
/// the two. Or a law that a step breaks.
pub fn check_keys<S: Subject>(setting: &Setting, most: usize) -> Result<usize, String> {
    let mut known: HashMap<u64, WorldState<S>> = HashMap::new();
    let mut queue: VecDeque<u64> = VecDeque::new();
    let mut compared = 0;
    let successors = |state: &WorldState<S>| -> Vec<Option<Result<u64, String>>> {
        let after = |what: &Move| state.after(setting, *what).map(|next| next.key(setting));
        setting.moves.iter().map(|what| state.allows(*what).then(|| after(what))).collect()
    };
    let mut find = |state: WorldState<S>, queue: &mut VecDeque<u64>, known: &mut HashMap<u64, WorldState<S>>| {
        let key = state.key(setting);
        let Some(same) = known.get(&key) else {
            known.insert(key, state);
            queue.push_back(key);
            return Ok(());
        };
        compared += 1;
        let (these, those) = (successors(same), successors(&state));
        match these.iter().zip(&those).position(|(this, that)| this.is_some() != that.is_some() || this != that) {
            Some(by) => {
                Err(format!("{:?} leads two states with one key apart:\n{same:?}\n{state:?}", setting.moves[by]))
            }
            None => Ok(()),
        }
    };
    for state in WorldState::initial_states(setting) {
        find(state, &mut queue, &mut known)?;
    }
    while let Some(key) = queue.pop_front().filter(|_| known.len() < most) {
        let state = known[&key].clone();
        for what in setting.moves.iter().filter(|what| state.allows(**what)) {
            find(state.after(setting, *what)?, &mut queue, &mut known)?;
        }
    }
    Ok(compared)
}
