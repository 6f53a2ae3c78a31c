//! The binary `crossdock`. Exit code 0: done; 1: an error, printed once; 2: the command line was not
//! understood (clap).

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use control::rules::Diagnostics;

mod cli;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(diagnostics) = error.downcast_ref::<Diagnostics>() {
                // anstream takes the colours out where stderr is not a terminal or NO_COLOR is set.
                cli::complain(diagnostics.coloured());
            }
            cli::complain(format_args!("crossdock: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}
