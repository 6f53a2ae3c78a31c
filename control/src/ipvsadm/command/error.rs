//! What is wrong with a command line of ipvsadm, said as ipvsadm says it, and what to do.

use std::fmt;

/// Why words are no command of ipvsadm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// An option that ipvsadm has not.
    UnknownOption {
        /// With its dashes.
        written: String,
        /// A long name that is near.
        near: Option<&'static str>,
    },
    /// An option stands where its value should.
    NoValue {
        /// Its long name.
        option: &'static str,
    },
    /// An option stands there twice.
    Twice {
        /// Its long name.
        option: &'static str,
    },
    /// Options, and none of them is a command.
    NoCommand,
    /// More than one command.
    TwoCommands {
        /// The long name of one.
        first: &'static str,
        /// The long name of the other.
        second: &'static str,
    },
    /// More than one of `-t`, `-u`, `--sctp-service`, `-f`.
    TwoServices,
    /// A command lacks an option.
    Needs {
        /// The command's long name.
        command: &'static str,
        /// What is lacking.
        option: &'static str,
    },
    /// An option that means nothing to a command, or to another option.
    Illegal {
        /// Its long name.
        option: &'static str,
        /// What it was written with.
        with: &'static str,
    },
    /// A word that belongs to no option.
    Surplus {
        /// The word.
        word: String,
    },
    /// A value that its option does not take.
    Value {
        /// The option's long name.
        option: &'static str,
        /// What was written.
        written: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A flag of another scheduler.
    SchedulerFlag {
        /// The flag.
        flag: String,
        /// The scheduler.
        scheduler: String,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOption { written, near: Some(near) } => {
                write!(f, "{written}: unknown option; did you mean `--{near}`?")
            }
            Self::UnknownOption { written, near: None } => {
                write!(f, "{written}: unknown option; `ipvsadm --help` lists them")
            }
            Self::NoValue { option } => write!(f, "option `--{option}` needs a value behind it"),
            Self::Twice { option } => write!(f, "option `--{option}` is there twice; leave one out"),
            Self::NoCommand => f.write_str("no command: one of -A -E -D -a -e -d -L -S -R -C -Z is needed"),
            Self::TwoCommands { first, second } => {
                write!(f, "two commands, `--{first}` and `--{second}`; a line has one")
            }
            Self::TwoServices => {
                f.write_str("two services; one of `-t`, `-u`, `--sctp-service` and `-f` names the service")
            }
            Self::Needs { command, option } => {
                write!(f, "you need to supply the '{option}' option for the '{command}' command")
            }
            Self::Illegal { option, with } => {
                write!(f, "illegal '{option}' option with '{with}'; leave `--{option}` out")
            }
            Self::Surplus { word } => write!(f, "unexpected argument {word}; it belongs to no option"),
            Self::Value { option, written, allowed } => {
                write!(f, "illegal '{option}' value {written:?}; allowed: {allowed}")
            }
            Self::SchedulerFlag { flag, scheduler } => {
                write!(
                    f,
                    "incompatible scheduler flag `{flag}' with {scheduler}; sh-... go with sh, mh-... with mh"
                )
            }
        }
    }
}

impl std::error::Error for CommandError {}
