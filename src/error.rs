//! The one error of this crate. Every message says what came, what was expected and what to do.

use std::path::PathBuf;

/// What every fallible public function returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with its mend in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has a shape, length or value that the function cannot take.
    #[error("{argument}: expected {expected}, got {found}")]
    Argument {
        /// The argument's name, as the function's signature has it.
        argument: String,
        /// What would have been accepted.
        expected: String,
        /// What came instead.
        found: String,
    },
    /// A token outside of the model's vocabulary.
    #[error(
        "sequence {sequence}, position {position}: token {token} is out of range, \
         the model takes tokens below {vocabulary}"
    )]
    Token {
        /// Index of the sequence in the batch.
        sequence: usize,
        /// Position in that sequence.
        position: usize,
        /// The token that came.
        token: u32,
        /// The model's input size `D`.
        vocabulary: usize,
    },
    /// A token outside of the model's vocabulary, found by the device that was reading it.
    #[error(
        "sequence {sequence}, position {position}: the token on the device was out of range, the model takes tokens \
         below {vocabulary}; what depends on it was computed as NaN"
    )]
    DeviceToken {
        /// Index of the sequence in the batch; 0 in a batch without padding.
        sequence: usize,
        /// Position in that sequence; in a batch without padding, position among the tokens of all sequences.
        position: usize,
        /// The model's input size `D`.
        vocabulary: usize,
    },
    /// A value that is NaN or infinite where only finite ones can enter.
    #[error("{tensor}, element {index}: {value} is not finite, and only finite numbers can enter")]
    NotFinite {
        /// The tensor's name.
        tensor: String,
        /// Index of the first such element, row-major.
        index: usize,
        /// The value itself.
        value: f64,
    },
    /// Training met a loss or a gradient norm that is not finite; nothing was written from there on.
    #[error(
        "step {step}: the loss or the gradient norm is not finite; the parameters are those before \
         that step (a lower learning rate often helps)"
    )]
    Diverged {
        /// The first bad step, counted from 1.
        step: u64,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}; check the path, its permissions and the space on the disk", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        problem: String,
    },
    /// A checkpoint or saved stream written in a format that this version does not know.
    #[error(
        "{origin}: format {found}, but this version reads format {supported}; use the version that wrote it"
    )]
    Format {
        /// The file's path, or the name of the bytes.
        origin: String,
        /// The format number that was found.
        found: u64,
        /// The format number that this version reads.
        supported: u64,
    },
    /// A call of a device's driver failed.
    #[error("{device}: cannot {action}: {problem}")]
    Device {
        /// The device: `cuda:0`.
        device: String,
        /// What was tried, as a verb.
        action: String,
        /// The driver's own words, and what can be done.
        problem: String,
    },
    /// A path, device or feature that this machine or this build does not have.
    #[error("{what} is not available: {why}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// Why it cannot be had, and what can.
        why: String,
    },
}

impl Error {
    /// An [`Error::Argument`].
    pub(crate) fn argument(
        argument: impl Into<String>,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Error::Argument { argument: argument.into(), expected: expected.into(), found: found.to_string() }
    }
}
