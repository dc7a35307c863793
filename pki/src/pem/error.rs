//! [`PemError`]: damage in a PEM text, or a text that is not PEM.

/// Damage in a PEM text, or something else where PEM was expected.
///
/// A reader returns this as its error if the damage makes the text unusable. Otherwise the reader skips the damage, as
/// Go and openssl do, and lists it for warnings (`skipped`). Lines and blocks count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// The input is larger than the limit: 1 MiB for chains, keys and requests, 8 MiB for CA bundles.
    #[error("{bytes} bytes exceed the limit of {} MiB; is this the right file?", most >> 20)]
    TooLarge {
        /// The size of the input in bytes.
        bytes: usize,
        /// The size limit in bytes.
        most: usize,
    },
    /// A block has no end: the file is cut short, or is still being written.
    #[error("PEM block {block} ({label}), line {line}, has no `-----END {label}-----` line; the input is cut short")]
    Unclosed {
        /// The number of the block in the input, counted from 1.
        block: usize,
        /// The line at which the block begins.
        line: usize,
        /// The label of the block, such as `CERTIFICATE`.
        label: String,
    },
    /// A block has no beginning: the first part of the file is missing.
    #[error("line {line} ends a PEM block ({label}) that has no `-----BEGIN {label}-----` line")]
    Unopened {
        /// The line at which the block ends.
        line: usize,
        /// The label of the block, such as `CERTIFICATE`.
        label: String,
    },
    /// A boundary (`-----BEGIN …` or `-----END …`) shares its line with other text, as if files without a last newline
    /// were joined. Readers miss the blocks that end or begin in this line.
    #[error(
        "line {line} holds a PEM boundary and something else; give each `-----BEGIN …-----` and `-----END …-----` \
         a line of its own (files joined with `cat` have to end with a newline)"
    )]
    Glued {
        /// The line with the boundary.
        line: usize,
    },
    /// The content of a block is not valid base64.
    #[error("PEM block {block} ({label}), line {line}, does not contain plain base64")]
    NotBase64 {
        /// The number of the block in the input, counted from 1.
        block: usize,
        /// The line at which the block begins.
        line: usize,
        /// The label of the block, such as `CERTIFICATE`.
        label: String,
    },
    /// A block has headers (`Name: value`) where none are allowed: in a CA bundle, and in a chain from a signer.
    #[error("PEM block {block} ({label}), line {line}, has headers; remove the `Name: value` lines")]
    Headers {
        /// The number of the block in the input, counted from 1.
        block: usize,
        /// The line at which the block begins.
        line: usize,
        /// The label of the block, such as `CERTIFICATE`.
        label: String,
    },
    /// A block has another label where only `CERTIFICATE` blocks are allowed.
    #[error("PEM block {block}, line {line}, is a {label}; only CERTIFICATE blocks are allowed")]
    Unexpected {
        /// The number of the block in the input, counted from 1.
        block: usize,
        /// The line at which the block begins.
        line: usize,
        /// The label of the block, such as `PRIVATE KEY`.
        label: String,
    },
    /// A `CERTIFICATE` block contains no certificate, or one that cannot be used.
    #[error("the certificate in PEM block {block}, line {line}, cannot be used: {reason}")]
    Unusable {
        /// The number of the block in the input, counted from 1.
        block: usize,
        /// The line at which the block begins.
        line: usize,
        /// The problem with the certificate, as a clause.
        reason: String,
    },
    /// The input is not PEM, or PEM of a kind that has to be converted first.
    #[error("this is {what}; convert it to PEM with `{command}`")]
    Foreign {
        /// The kind of the input, such as `PKCS#12`.
        what: String,
        /// The command that converts the input to PEM.
        command: String,
    },
}
