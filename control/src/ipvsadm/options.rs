//! The grammar of ipvsadm's options: which there are, what each takes, and how words become options. It follows popt:
//! `-L -n` may be `-Ln`, `-w 5` may be `-w5`, `--weight 5` may be `--weight=5`, in any order.

use std::collections::BTreeMap;

use super::command::CommandError;
use crate::rules::nearest;

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Value,
    /// A value when a word follows that is no option.
    Perhaps,
}

/// Every option; the first ones are commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Opt {
    AddService,
    EditService,
    DeleteService,
    AddServer,
    EditServer,
    DeleteServer,
    Clear,
    Restore,
    Save,
    List,
    Zero,
    Set,
    StartDaemon,
    StopDaemon,
    Help,
    TcpService,
    UdpService,
    SctpService,
    MarkService,
    Ipv6,
    Scheduler,
    PersistenceEngine,
    Persistent,
    Netmask,
    RealServer,
    Gatewaying,
    Ipip,
    Masquerading,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
    Weight,
    UpperThreshold,
    LowerThreshold,
    Connection,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Exact,
    Thresholds,
    PersistentConn,
    TunInfo,
    Nosort,
    Sort,
    OnePacket,
    Numeric,
    SchedulerFlags,
    SyncId,
    SyncMaxlen,
    McastInterface,
    McastGroup,
    McastPort,
    McastTtl,
}

use Opt as O;
use Takes::{Nothing, Perhaps, Value};

/// Of each option its long name, its letters and what it takes.
const OPTIONS: [(Opt, &str, &str, Takes); 56] = [
    (O::AddService, "add-service", "A", Nothing),
    (O::EditService, "edit-service", "E", Nothing),
    (O::DeleteService, "delete-service", "D", Nothing),
    (O::AddServer, "add-server", "a", Nothing),
    (O::EditServer, "edit-server", "e", Nothing),
    (O::DeleteServer, "delete-server", "d", Nothing),
    (O::Clear, "clear", "C", Nothing),
    (O::Restore, "restore", "R", Nothing),
    (O::Save, "save", "S", Nothing),
    (O::List, "list", "Ll", Nothing),
    (O::Zero, "zero", "Z", Nothing),
    (O::Set, "set", "", Nothing),
    (O::StartDaemon, "start-daemon", "", Nothing),
    (O::StopDaemon, "stop-daemon", "", Nothing),
    (O::Help, "help", "h", Nothing),
    (O::TcpService, "tcp-service", "t", Value),
    (O::UdpService, "udp-service", "u", Value),
    (O::SctpService, "sctp-service", "", Value),
    (O::MarkService, "fwmark-service", "f", Value),
    (O::Ipv6, "ipv6", "6", Nothing),
    (O::Scheduler, "scheduler", "s", Value),
    (O::PersistenceEngine, "pe", "", Value),
    (O::Persistent, "persistent", "p", Perhaps),
    (O::Netmask, "netmask", "M", Value),
    (O::RealServer, "real-server", "r", Value),
    (O::Gatewaying, "gatewaying", "g", Nothing),
    (O::Ipip, "ipip", "i", Nothing),
    (O::Masquerading, "masquerading", "m", Nothing),
    (O::TunType, "tun-type", "", Value),
    (O::TunPort, "tun-port", "", Value),
    (O::TunNocsum, "tun-nocsum", "", Nothing),
    (O::TunCsum, "tun-csum", "", Nothing),
    (O::TunRemcsum, "tun-remcsum", "", Nothing),
    (O::Weight, "weight", "w", Value),
    (O::UpperThreshold, "u-threshold", "x", Value),
    (O::LowerThreshold, "l-threshold", "y", Value),
    (O::Connection, "connection", "c", Nothing),
    (O::Timeout, "timeout", "", Nothing),
    (O::Daemon, "daemon", "", Nothing),
    (O::Stats, "stats", "", Nothing),
    (O::Rate, "rate", "", Nothing),
    (O::Exact, "exact", "", Nothing),
    (O::Thresholds, "thresholds", "", Nothing),
    (O::PersistentConn, "persistent-conn", "", Nothing),
    (O::TunInfo, "tun-info", "", Nothing),
    (O::Nosort, "nosort", "", Nothing),
    (O::Sort, "sort", "", Nothing),
    (O::OnePacket, "ops", "o", Nothing),
    (O::Numeric, "numeric", "n", Nothing),
    (O::SchedulerFlags, "sched-flags", "b", Value),
    (O::SyncId, "syncid", "", Value),
    (O::SyncMaxlen, "sync-maxlen", "", Value),
    (O::McastInterface, "mcast-interface", "", Value),
    (O::McastGroup, "mcast-group", "", Value),
    (O::McastPort, "mcast-port", "", Value),
    (O::McastTtl, "mcast-ttl", "", Value),
];

/// Where a service is named.
pub(super) const SERVICES: [Opt; 4] = [O::TcpService, O::UdpService, O::SctpService, O::MarkService];

impl Opt {
    /// The long name, without dashes.
    pub(super) fn name(self) -> &'static str {
        OPTIONS.iter().find(|(opt, ..)| *opt == self).map_or("", |(_, name, ..)| name)
    }

    pub(super) fn is_command(self) -> bool {
        self <= O::Help
    }

    /// Whether it means something to `command`.
    pub(super) fn suits(self, command: Opt) -> bool {
        let of_service = SERVICES.contains(&self) || self == O::Ipv6;
        match command {
            O::AddService | O::EditService => {
                of_service
                    || matches!(self, O::Scheduler | O::PersistenceEngine | O::Persistent | O::Netmask)
                    || matches!(self, O::SchedulerFlags | O::OnePacket)
            }
            O::AddServer | O::EditServer => of_service || (O::RealServer..=O::LowerThreshold).contains(&self),
            O::DeleteServer => of_service || self == O::RealServer,
            O::DeleteService | O::Zero => of_service,
            O::List => of_service || (O::Connection..=O::Sort).contains(&self) || self == O::Numeric,
            O::Save => self == O::Numeric,
            O::StartDaemon => self >= O::SyncId,
            O::StopDaemon => self == O::SyncId,
            _ => false,
        }
    }
}

/// The words of one command line, as options.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// None where no option is a command.
    pub(super) command: Option<Opt>,
    /// Those that are no commands, with their values.
    pub(super) values: BTreeMap<Opt, Option<String>>,
    /// Words that belong to no option.
    pub(super) rest: Vec<String>,
}

impl Options {
    /// # Errors
    /// Options that ipvsadm has not or that lack their value, one given twice, and more than one command.
    pub(super) fn read(words: &[String]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        let mut words = words.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
                let (name, value) =
                    long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                let known = OPTIONS.iter().find(|(_, known, ..)| *known == name);
                let (opt, .., takes) = known.ok_or_else(|| unknown_long(name))?;
                options.take(*opt, *takes, value, &mut words)?;
            } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                options.take_letters(letters, &mut words)?;
            } else {
                options.rest.push(word.to_owned());
            }
        }
        Ok(options)
    }

    /// `Ln`, `w5`: letters up to the first that takes a value, which is what is left.
    fn take_letters<'a>(
        &mut self,
        letters: &'a str,
        words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    ) -> Result<(), CommandError> {
        let mut left = letters.chars();
        while let Some(letter) = left.next() {
            let known = OPTIONS.iter().find(|(_, _, known, _)| known.contains(letter));
            let (opt, .., takes) = known
                .ok_or_else(|| CommandError::UnknownOption { written: format!("-{letter}"), near: None })?;
            let attached = Some(left.as_str()).filter(|attached| match takes {
                Value => !attached.is_empty(),
                Perhaps => attached.starts_with(|c: char| c.is_ascii_digit()),
                Nothing => false,
            });
            self.take(*opt, *takes, attached.map(|attached| attached.trim_start_matches('=')), words)?;
            if attached.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn take<'a>(
        &mut self,
        opt: Opt,
        takes: Takes,
        attached: Option<&'a str>,
        words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    ) -> Result<(), CommandError> {
        let value = match (takes, attached) {
            (Nothing, Some(value)) => {
                return Err(CommandError::Surplus { word: format!("--{}={value}", opt.name()) });
            }
            (Nothing, None) => None,
            (_, Some(value)) => Some(value),
            (Value, None) => Some(words.next().ok_or(CommandError::NoValue { option: opt.name() })?),
            (Perhaps, None) => words.next_if(|word| !word.starts_with('-')),
        };
        if opt.is_command() {
            return match self.command.replace(opt) {
                Some(first) => Err(CommandError::TwoCommands { first: first.name(), second: opt.name() }),
                None => Ok(()),
            };
        }
        match self.values.insert(opt, value.map(str::to_owned)) {
            Some(_) => Err(CommandError::Twice { option: opt.name() }),
            None => Ok(()),
        }
    }

    /// Whether an option without a value is there.
    pub(super) fn has(&self, opt: Opt) -> bool {
        self.values.contains_key(&opt)
    }

    /// The value of an option that is there and has one.
    pub(super) fn value(&self, opt: Opt) -> Option<&str> {
        self.values.get(&opt)?.as_deref()
    }
}

fn unknown_long(name: &str) -> CommandError {
    let near = nearest(name, OPTIONS.iter().map(|(_, known, ..)| *known));
    CommandError::UnknownOption { written: format!("--{name}"), near }
}
