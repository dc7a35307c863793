//! Certificate lists: the YAML file of `perennial run --certificates` and `perennial check`.

mod accounts;
mod conflicts;
mod member;
mod open;
mod parse;
mod read;
mod reader;
mod variables;
mod yaml;

pub(crate) use member::{Asker, List, ListedBundle, Location, Member, Pod, Signal, VolumeFiles};
pub(crate) use open::{MemberStore, Volumes};
pub(crate) use variables::of_process;

#[cfg(test)]
mod tests;
