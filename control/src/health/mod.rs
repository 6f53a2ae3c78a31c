//! Health checks: finds out which backends can serve.
//!
//! Each backend that is checked has a task of its own on control's runtime (`watch`): it waits, asks (`probe`), and notes
//! what came of it on the board (`board`), where the backend's standing is kept (`standing`, pure). The director looks whether
//! standings have changed and then builds rules in which that backend is down; what becomes of its connections is decided there
//! (`on_remove`, drains, slow start) and not here. Without `[service.health]` there is no task, and nothing is asked.
//!
//! What the keys mean is told in `docs/health.md`.

mod board;
mod failure;
mod notify;
mod passive;
mod probe;
mod program;
mod quorum;
mod standing;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::prefix::Prefix;
use dataplane::rules::ServicePattern;
use dataplane::wire::proxy_protocol::Version;
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use board::{Board, HealthReport};
pub use failure::Failure;
pub use passive::Traffic;
pub use probe::probe;
pub use standing::Standing;

use crate::rules::build::{BackendKey, Verdicts};
use crate::rules::{self, BackendState, Check, CheckPlace, ClientAddress, Initial, Rules, Service, Via};
use notify::{Call, Hooks};

/// New checks begin so long after each other: as often as all of them together may be done.
const BETWEEN_FIRST_CHECKS: Duration = Duration::from_micros(100);

/// One backend's check, as a task needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Whose.
    pub key: BackendKey,
    /// What is asked, how often and how long.
    pub health: Arc<rules::Health>,
    /// Whom.
    pub target: SocketAddr,
    /// Whom as a client knows him: where he is asked by name and nothing says which, this is it.
    pub asked_for: SocketAddr,
    /// Why nobody can be asked.
    pub obstacle: Option<String>,
    /// What the backend wants to hear first on a connection.
    pub greeting: &'static [u8],
    /// Its service's name.
    pub service: String,
    /// Where it serves, as the rules say.
    pub backend: String,
}

/// A check that goes on; it ends when this is dropped.
#[derive(Debug)]
struct Watched {
    job: Job,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the line can tell of its backends.
pub trait Line {
    /// Where it counts what a backend does.
    fn traffic(&self, key: &BackendKey) -> Option<Traffic>;
    /// The address by which a connection of the kernel's reaches a backend as its service's packets do.
    ///
    /// # Errors
    /// Why there is none.
    fn check_address(&self, key: &BackendKey) -> Result<IpAddr, String>;
}

/// No line at all: checks of what needs none.
#[derive(Clone, Copy, Debug)]
pub struct NoLine;

impl Line for NoLine {
    fn traffic(&self, _key: &BackendKey) -> Option<Traffic> {
        None
    }

    fn check_address(&self, _key: &BackendKey) -> Result<IpAddr, String> {
        Err("there is no line".to_owned())
    }
}

/// All checks of a director.
#[derive(Debug, Default)]
pub struct Health {
    board: Board,
    watched: HashMap<BackendKey, Watched>,
    /// Services that are down: too little of them is up.
    services_down: BTreeSet<ServicePattern>,
    /// From the first hook on that there is.
    hooks: Option<Hooks>,
}

impl Health {
    /// Where standings are kept.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// What checks say of the backends of `rules`: only those that are in another state than their rules say. A backend that
    /// was never checked is what its rules say it is at first.
    pub fn verdicts(&self, rules: &Rules) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for (service, health, key) in checked_services(rules) {
            let standing = self.standing(service, health, key);
            for (backend, state) in service.backends.iter().zip(quorum::states(service, health, &standing)) {
                if state != BackendState::Up {
                    verdicts.set(BackendKey::new(key, backend.endpoint), state);
                }
            }
        }
        verdicts
    }

    /// Whether each backend is up by its checks, in file order.
    fn standing(&self, service: &Service, health: &rules::Health, key: ServicePattern) -> Vec<bool> {
        let of = |backend: &rules::Backend| self.board.is_up(&BackendKey::new(key, backend.endpoint));
        let at_first = health.initial == Initial::Up;
        service.backends.iter().map(|backend| of(backend).unwrap_or(at_first)).collect()
    }

    /// VIPs that shall leave the network: every service that has them wants that, as too little of it is up.
    pub fn withdrawn(&self, rules: &Rules) -> BTreeSet<Prefix> {
        let down: BTreeSet<_> = checked_services(rules)
            .filter(|(service, health, key)| {
                health.withdraw && !quorum::is_met(service, health, &self.standing(service, health, *key))
            })
            .map(|(_, _, key)| key)
            .collect();
        let (withdrawn, kept): (Vec<_>, Vec<_>) =
            rules.services.iter().partition(|service| service.key().is_some_and(|key| down.contains(&key)));
        let kept: BTreeSet<_> = kept.into_iter().flat_map(|service| service.vips()).collect();
        let withdrawn: BTreeSet<_> = withdrawn.into_iter().flat_map(|service| service.vips()).collect();
        &withdrawn - &kept
    }

    /// Checks the backends of `rules`, and no others. Who is checked already keeps his standing, and, unless his check is
    /// another one, his place in time.
    ///
    /// `line` tells how backends are reached and seen.
    pub fn follow(&mut self, rules: &Rules, line: &impl Line) {
        if self.hooks.is_none() && checked_services(rules).any(|(_, health, _)| health.notify.is_some()) {
            let hooks = Hooks::start();
            self.board.set_hooks(hooks.clone());
            self.hooks = Some(hooks);
        }
        let wanted = jobs(rules, line);
        self.watched.retain(|key, watched| wanted.get(key) == Some(&watched.job));
        let new = wanted.into_values().filter(|job| !self.watched.contains_key(&job.key)).collect::<Vec<_>>();
        let mut first_check = Duration::ZERO;
        for job in new {
            let is_up = job.health.initial == Initial::Up;
            self.board.enter(job.key, is_up, Instant::now());
            let (board, traffic) = (self.board.clone(), line.traffic(&job.key));
            let task = match &job.health.check {
                Check::Passive(check) => tokio::spawn(watch::observe(job.clone(), board, traffic, *check)),
                _ => tokio::spawn(watch::watch(job.clone(), board, first_check)),
            };
            self.watched.insert(job.key, Watched { job, task });
            first_check += BETWEEN_FIRST_CHECKS;
        }
        self.board.retain(|key| self.watched.contains_key(key));
        self.follow_services(rules);
    }

    /// Tells of services that have become up or down as a whole.
    pub fn follow_services(&mut self, rules: &Rules) {
        let mut down = BTreeSet::new();
        for (service, health, key) in checked_services(rules) {
            let standing = self.standing(service, health, key);
            let (weight, wanted) = (quorum::weight_up(service, &standing), health.quorum_or_default());
            if weight < u64::from(wanted) {
                down.insert(key);
            }
            if down.contains(&key) == self.services_down.contains(&key) {
                continue;
            }
            let is_up = !down.contains(&key);
            let reason = format!("backends of weight {weight} are up, quorum {wanted}");
            match is_up {
                true => info!("service {} is up: {reason}", service.name),
                false => warn!("service {} is down: {reason}", service.name),
            }
            if let (Some(hooks), Some(hook)) = (&self.hooks, &health.notify) {
                let (hook, service) = (hook.clone(), service.name.clone());
                hooks.call(Call { hook, service, backend: None, is_up, reason });
            }
        }
        self.services_down = down;
    }

    /// Whether a standing has changed since this was last asked.
    pub fn has_changed(&self) -> bool {
        self.board.take_changed()
    }
}

/// The services that have checks, with these and with what makes them this service.
fn checked_services(rules: &Rules) -> impl Iterator<Item = (&Service, &Arc<rules::Health>, ServicePattern)> {
    rules.services.iter().filter_map(|service| Some((&**service, service.health.as_ref()?, service.key()?)))
}

/// The checks that rules ask for, one a backend.
pub fn jobs(rules: &Rules, line: &impl Line) -> HashMap<BackendKey, Job> {
    let mut jobs = HashMap::new();
    for (service, health, key) in checked_services(rules) {
        for backend in &service.backends {
            let key = BackendKey::new(key, backend.endpoint);
            let place = backend.check_place;
            let address = place.address.unwrap_or(backend.endpoint.address);
            let l4_port = place.l4_port.or(health.l4_port).unwrap_or(backend.endpoint.l4_port);
            let (target, asked_for) = match health.via {
                Via::Address => (Ok(address), address),
                Via::Vip => (line.check_address(&key), key.service.vips.network()),
            };
            let job = Job {
                key,
                health: Arc::clone(health),
                target: SocketAddr::new(*target.as_ref().unwrap_or(&asked_for), l4_port),
                asked_for: SocketAddr::new(asked_for, l4_port),
                obstacle: target.err(),
                greeting: match place == CheckPlace::default() && health.l4_port.is_none() {
                    true => greeting(service.policy.client_address),
                    false => b"",
                },
                service: service.name.clone(),
                backend: backend.endpoint.to_string(),
            };
            jobs.insert(key, job);
        }
    }
    jobs
}

/// Of a service whose backends are told their client by the PROXY protocol: a header that says that this connection is the proxy's own
/// (section 2.1, `UNKNOWN`; section 2.2, `LOCAL`).
fn greeting(client_address: ClientAddress) -> &'static [u8] {
    match client_address {
        ClientAddress::Proxy(Version::V1) => b"PROXY UNKNOWN\r\n",
        ClientAddress::Proxy(Version::V2) => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is when nothing more is said than `check = "tcp"`.
    pub(super) fn health() -> rules::Health {
        rules::Health {
            check: Check::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            jitter_percent: 10,
            initial: Initial::Up,
            via: Via::Address,
            l4_port: None,
            damping: None,
            inhibit: false,
            quorum: None,
            withdraw: false,
            notify: None,
        }
    }
}
