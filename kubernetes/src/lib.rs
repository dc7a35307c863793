//! The Kubernetes certificate API, sans-IO.

#![forbid(unsafe_code)]

pub mod objects;
