# `just` without a recipe lists these. Each line works in a shell too.

default:
    @just --list

# 30 s: the machine against its laws, without X.509, and the rules of writing.
quick:
    cargo fmt --all --check
    .ci/words
    cargo test -p perennial
    cargo test -p perennial-tests --no-default-features --test laws --test rules --test messages

# 5 to 10 min: the README's test command.
test:
    cargo test --workspace

# 30 min: everything that must hold before a change lands.
ci:
    .ci/run

# 3 min: runs the examples, or those that are named, and prints the result of each.
examples *NAMES:
    .ci/examples {{NAMES}}

# 1 min: builds the machine for microcontrollers, and runs it with a board that the host plays.
embedded:
    .ci/embedded

# Licences, bans and sources of all dependencies. Needs cargo-deny.
deny:
    cargo deny --locked check licenses bans sources

# Hours: larger worlds, many more lives and kills, mutants, fuzzing.
long:
    .ci/long

# A node gets a certificate and rotates it three times.
demo *ARGS:
    cargo run -p perennial-dev -- demo {{ARGS}}

# Needs nightly Rust and cargo-fuzz. Targets: `ls fuzz/fuzz_targets`.
fuzz TARGET *ARGS:
    cargo +nightly fuzz run {{TARGET}} {{ARGS}}
