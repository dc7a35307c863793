//! Certificate lists: the YAML file of `perennial run --certificates` and `perennial check`.

mod member;

pub(crate) use member::{
    Access, Asker, CommandLine, Encoding, List, Location, Member, Names, PidFile, Reaction, Signal, StoreKind,
};
