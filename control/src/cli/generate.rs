//! `crossdock completions SHELL` and `crossdock man DIRECTORY`: made from the command line's own definition.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print completions for a shell: crossdock completions bash > /etc/bash_completion.d/crossdock
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "crossdock", &mut script);
        super::print(String::from_utf8_lossy(&script))
    }
}

/// Write the manual pages, one a command: crossdock man /usr/local/share/man/man1
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Where to; it is made where it is not there
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let what = || self.directory.display().to_string();
        fs::create_dir_all(&self.directory).with_context(what)?;
        clap_mangen::generate_to(Cli::command(), &self.directory).with_context(what)?;
        let pages = fs::read_dir(&self.directory).with_context(what)?;
        let pages = pages.collect::<io::Result<Vec<_>>>().with_context(what)?;
        let pages = pages.iter().filter(|page| page.file_name().to_string_lossy().starts_with("crossdock"));
        super::print(format_args!("{}: {} manual pages\n", what(), pages.count()))
    }
}
