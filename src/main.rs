//! The program `pr-lstm`: trains, evaluates and verifies. Results go to stdout, errors in one line to stderr.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
