//! The embedded server over real sockets, and clusters for other programs' tests.

mod cluster;
mod host;
mod pods;
