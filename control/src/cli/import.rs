//! `crossdock import`: rules from what ipvsadm or keepalived has.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use control::import::{Format, ImportError, Imported, PortSettings, import};
use control::ipvsadm::Names;
use control::rules::Rules;

/// What is read more of is no configuration.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Write rules from what LVS has: what has no counterpart becomes a comment
///
/// The rules go to the standard output, a summary to the standard error. docs/import.md tells what becomes of what.
#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(subcommand)]
    format: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// From the output of `ipvsadm -S -n`, or a script that calls ipvsadm
    Ipvsadm(Arguments),
    /// From keepalived.conf, with what it includes
    Keepalived(Arguments),
}

#[derive(Debug, Args)]
struct Arguments {
    /// What to import; "-", or nothing, is the standard input
    #[arg(value_name = "FILE", default_value = "-", hide_default_value = true)]
    input: PathBuf,
    /// Write the rules to a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite that file
    #[arg(long, requires = "output")]
    force: bool,
    /// The port's device, as rules have it, such as af_packet:eth0 [default: a place to fill in]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The director's own address on it with the prefix length; may be repeated [default: a place to fill in]
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    address: Vec<String>,
}

impl Import {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (format, arguments) = match self.format {
            Subject::Ipvsadm(arguments) => (Format::Ipvsadm, arguments),
            Subject::Keepalived(arguments) => (Format::Keepalived, arguments),
        };
        let Arguments { input, output, force, device, address } = arguments;
        let port = PortSettings { device, addresses: address };
        port.check()?;
        if let Some(file) = output.as_deref().filter(|file| !force && file.exists()) {
            bail!("{} exists; --force overwrites it", file.display());
        }
        let (name, bytes) = read(&input)?;
        let names = Names::of_this_machine();
        let imported = import(format, &name, &bytes, &names, &port).inspect_err(complain)?;
        // Whatever came in, nobody shall start with rules that are none.
        let place = output.as_deref().unwrap_or(Path::new("imported rules"));
        let valid = Rules::parse(&place.display().to_string(), &imported.rules);
        match &output {
            None => super::print(&imported.rules)?,
            Some(file) => write(file, &imported.rules, force)?,
        }
        tell(&imported);
        valid.context("the rules are written, and need a hand")?;
        Ok(())
    }
}

fn complain(error: &ImportError) {
    for problem in &error.problems {
        super::complain(format_args!("error: {problem}\n"));
    }
}

fn tell(imported: &Imported) {
    super::complain(format_args!("crossdock import: {imported}\n"));
}

/// The input with its name.
fn read(input: &Path) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    let mut bytes = Vec::new();
    let name = if input == Path::new("-") {
        io::stdin()
            .take(INPUT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .context("reading the standard input")?;
        PathBuf::from("standard input")
    } else {
        let name = || input.display().to_string();
        let file = fs::File::open(input).with_context(name)?;
        file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(name)?;
        input.to_owned()
    };
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        bail!("{}: more than {} MiB; is this the right file?", name.display(), INPUT_BYTES_MAX >> 20);
    }
    Ok((name, bytes))
}

fn write(file: &Path, rules: &str, force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let opened = options.open(file).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::anyhow!("{} exists; --force overwrites it", file.display()),
        _ => anyhow::Error::new(error).context(file.display().to_string()),
    });
    opened?.write_all(rules.as_bytes()).with_context(|| file.display().to_string())
}
