//! The binary `crossdock`. What its exit codes mean is told in [`exit_code`] and in docs/api.md.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use control::api::client::{NobodyThere, Refused};
use control::rules::Diagnostics;
use hyper::StatusCode;

mod cli;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(diagnostics) = error.downcast_ref::<Diagnostics>() {
                // anstream takes the colours out where stderr is not a terminal or NO_COLOR is set.
                cli::complain(diagnostics.coloured());
            }
            if let Some(Refused(problem)) = error.downcast_ref() {
                problem.report.iter().for_each(cli::complain);
            }
            cli::complain(format_args!("crossdock: {error:#}\n"));
            exit_code(&error)
        }
    }
}

/// 0: done. 1: an error, printed once. 2: the command line was not understood (clap says so itself). 3: nobody answers at
/// the socket. 4: the rules in force are of another revision than the command named.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<NobodyThere>().is_some() {
        return 3.into();
    }
    match error.downcast_ref() {
        Some(Refused(problem)) if problem.status == StatusCode::PRECONDITION_FAILED => 4.into(),
        _ => ExitCode::FAILURE,
    }
}
