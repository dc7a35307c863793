//! Sizes of the benches. With the argument `--test`, a bench runs to its end in a second: a check that it still works.

/// Returns `full`, or `trial` if this bench was started with `--test`. The figures of a trial mean nothing.
pub fn sized<T>(full: T, trial: T) -> T {
    if std::env::args().any(|argument| argument == "--test") { trial } else { full }
}
