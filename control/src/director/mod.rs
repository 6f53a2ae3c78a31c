//! The process behind `crossdock run`: brings everything up, keeps the workers' rules in step with the file and with
//! the kernel's neighbours, and takes everything down again.
//!
//! One tokio runtime on one thread; the workers and the slow path are threads of their own ([`crate::launch`]) and
//! never wait for it.

pub(crate) mod advice;
mod changes;
mod file_watch;
mod kernel_side;
mod limits;
mod port_standing;
mod service_manager;
mod shared;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::ServerConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, info};

use crate::api::remote::Remote as ApiRemote;
use crate::api::server::Socket;
use crate::changes::queue::{self, Pending};
use crate::changes::{Outcome, Refusal, Request, Revisions, Wanted};
use crate::doctor;
use crate::launch::{self, Running};
use crate::machine::Machine;
use crate::metrics::{Endpoint, METRICS_PATH};
use crate::report::Report;
use crate::rules::{Document, Remote, Rules};
use file_watch::FileWatch;
use kernel_side::{Guards, KernelSide};
use service_manager::ServiceManager;
use shared::Shared;
use state::Director;

/// How `crossdock run` was asked to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The rules file, read again at SIGHUP.
    pub rules: PathBuf,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Stop when no port has moved a packet for this long.
    pub until_idle: Option<Duration>,
    /// Put the rules file in force when it changes, not only at SIGHUP.
    pub watch: bool,
}

/// How often threads and traffic are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs until told to stop; returns what was counted.
///
/// # Errors
/// Whatever kept it from starting, or stopped it.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (rules, text) = Rules::read(&options.rules)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut manager = ServiceManager::of_environment();
    let facts = doctor::gather::gather(&Machine::this(), Some(&rules));
    let wanted = rules.clone();
    let ended = runtime.block_on(direct(options, (rules, &text), &mut manager));
    ended.map_err(|reason| {
        if manager.was_told_ready() { reason } else { doctor::not_started(reason, &facts, &wanted) }
    })
}

/// What happens while it runs.
struct Events<'a> {
    signals: Signals,
    guards: &'a mut Guards,
    changes: Receiver<Pending>,
    /// Tells the API on TCP of new certificates.
    tls: Option<watch::Sender<Arc<ServerConfig>>>,
}

struct Signals {
    hangup: Signal,
    end: EndSignals,
}

struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            end: EndSignals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            },
        })
    }
}

impl EndSignals {
    /// Waits for one of them; says which.
    async fn come(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn direct(
    options: &Options,
    (rules, text): (Rules, &str),
    manager: &mut ServiceManager,
) -> anyhow::Result<Report> {
    // From here on a signal ends the process in order.
    let signals = Signals::listen()?;
    let mut socket = Socket::bind(&rules.control.socket, rules.control.group.as_deref())?;
    let endpoint = rules.control.metrics.map(Endpoint::bind).transpose()?;
    let tls = rules.control.remote.as_ref().map(|remote| watch::channel(Arc::clone(remote.tls.config())));
    let (tls, remote) = match (tls, &rules.control.remote) {
        (Some((sender, receiver)), Some(Remote { address, .. })) => {
            (Some(sender), Some(ApiRemote::bind(*address, receiver)?))
        }
        _ => (None, None),
    };
    let mut guards = Guards::install(&rules).await?;
    limits::raise_open_files();
    let running = launch::launch(&rules)?;
    announce(&running);
    let by = format!("the start, from {}", options.rules.display());
    let revisions = Revisions::new(Document::parse(text).context("the rules")?, by);
    let (changer, changes) = queue::queue();
    let mut director = Director::new(running, (rules, revisions), KernelSide::default(), changer).await?;
    let sockets = (&mut socket, endpoint, remote);
    let mut events = Events { signals, guards: &mut guards, changes, tls };
    let ended = serve(options, &mut director, &mut events, sockets, manager).await;
    manager.stopping();
    // The ports close before the shields go. Where something fails above, dropping does the same in the same order.
    let report = director.stop().await;
    guards.remove().await;
    ended?;
    report
}

/// From the first rules to the end.
async fn serve(
    options: &Options,
    director: &mut Director,
    events: &mut Events<'_>,
    (socket, endpoint, remote): (&mut Socket, Option<Endpoint>, Option<ApiRemote>),
    manager: &mut ServiceManager,
) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        // One that came while the ports were opened counts too.
        signal = events.signals.end.come() => { info!("{signal}: stopping"); return Ok(()); }
        started = director.start() => started?,
    }
    if let Some(serve) = socket.serve(Shared::clone(director.shared())) {
        tokio::spawn(serve);
    }
    if let Some(endpoint) = endpoint {
        info!("metrics: http://{}{METRICS_PATH}", endpoint.address()?);
        tokio::spawn(endpoint.serve(Shared::clone(director.shared())));
    }
    if let Some(remote) = remote {
        info!("the API for whoever has a certificate: https://{}", remote.address()?);
        tokio::spawn(remote.serve(Shared::clone(director.shared())));
    }
    info!("ready: {}", director.describe());
    manager.ready(&director.describe());
    watch_over(options, director, events, manager).await
}

fn announce(running: &Running) {
    for port in &running.ports {
        let twin =
            port.twin_ifname.as_deref().map(|twin| format!(", kernel twin {twin}")).unwrap_or_default();
        let several = running.workers.len() > 1;
        let spreading = if several { format!(", {}", port.spreading) } else { String::new() };
        let (device, facts) = (port.device.name(), port.facts);
        let offload = if facts.udp_offload.is_some() { ", computes UDP checksums" } else { "" };
        info!("port {}: {device}, MAC {}, MTU {}{twin}{spreading}{offload}", port.name, facts.mac, port.mtu);
    }
    for (index, worker) in running.workers.iter().enumerate() {
        let (core, capacity, backing) = (worker.core, worker.table_capacity, worker.table_backing);
        info!("worker {index}: core {core}, {capacity} flow entries on {backing:?} memory");
    }
    info!("DPDK memory: {:?}", running.memory);
}

/// Everything that happens while it runs.
async fn watch_over(
    options: &Options,
    director: &mut Director,
    Events { signals, guards, changes: queue, tls }: &mut Events<'_>,
    manager: &mut ServiceManager,
) -> anyhow::Result<()> {
    let end = sleep(options.duration.unwrap_or(Duration::MAX / 4).min(Duration::from_secs(u32::MAX.into())));
    tokio::pin!(end);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut traffic = Traffic::now(director);
    let mut file = options.watch.then(|| FileWatch::new(&options.rules));
    loop {
        tokio::select! {
            signal = signals.end.come() => { info!("{signal}: stopping"); return Ok(()); }
            () = &mut end, if options.duration.is_some() => return Ok(()),
            _ = signals.hangup.recv() => {
                manager.reloading();
                reload(options, director).await;
                manager.ready(&director.describe());
            }
            Some(first) = queue.recv() => changes::follow(director, first, queue, &options.rules).await,
            () = director.next_hops_changed() => director.follow_next_hops().await,
            // Here the loss only is waited for: what is waited for here is dropped when another line comes first.
            (which, reason) = guards.lost() => guards.restore(which, &reason).await?,
            _ = look.tick() => {
                director.advise();
                director.follow_health().await;
                director.follow_lingering().await;
                director.follow_paths().await;
                director.follow_ramps().await;
                director.follow_failures().await;
                if file.as_mut().is_some_and(|file| file.has_settled(Instant::now())) {
                    info!("{} has changed", options.rules.display());
                    reload(options, director).await;
                }
                follow_certificates(director, tls.as_ref());
                manager.keep_alive(|| director.turns(), std::time::Instant::now());
                if director.has_lost_a_thread() {
                    bail!("a thread of the data path has ended; see the messages above");
                }
                if options.until_idle.is_some_and(|quiet| traffic.is_idle_for(director, quiet)) {
                    return Ok(());
                }
            }
        }
    }
}

/// Tells the API on TCP of certificates that came with new rules.
fn follow_certificates(director: &Director, tls: Option<&watch::Sender<Arc<ServerConfig>>>) {
    let rules = director.rules();
    if let (Some(tls), Some(remote)) = (tls, &rules.control.remote) {
        tls.send_if_modified(|config| {
            let is_new = !Arc::ptr_eq(config, remote.tls.config());
            if is_new {
                *config = Arc::clone(remote.tls.config());
            }
            is_new
        });
    }
}

/// All or nothing: a file with an error, or with a change that needs a restart, leaves the running rules in force.
async fn reload(options: &Options, director: &mut Director) {
    let before = director.document().0;
    let reloaded = try_reload(options, director).await;
    director.note_reload(reloaded.is_ok());
    match reloaded {
        Ok(outcome) if outcome.revision == before => info!("reload: nothing has changed"),
        Ok(Outcome { revision, changes, .. }) => {
            info!("reload: in force as revision {revision}:\n{}", changes.join("\n"));
        }
        Err(Refusal::Invalid(diagnostics)) => {
            error!("reload refused, the running rules stay in force:\n{}", diagnostics.plain());
        }
        Err(reason) => error!("reload refused, the running rules stay in force: {reason}"),
    }
}

async fn try_reload(options: &Options, director: &mut Director) -> Result<Outcome, Refusal> {
    let (_, text) = Rules::read(&options.rules).map_err(Refusal::Invalid)?;
    let by = format!("a reload of {}", options.rules.display());
    let request = Request { wanted: Wanted::Rules(text), expected: None, is_rehearsal: false, by };
    changes::make(director, &request, &options.rules).await
}

/// Whether packets move.
struct Traffic {
    packets: u64,
    since: Instant,
}

impl Traffic {
    fn now(director: &Director) -> Self {
        Self { packets: director.packets_moved(), since: Instant::now() }
    }

    fn is_idle_for(&mut self, director: &Director, quiet: Duration) -> bool {
        let packets = director.packets_moved();
        if packets != self.packets {
            *self = Self { packets, since: Instant::now() };
        }
        self.since.elapsed() >= quiet
    }
}

/// The rules in force.
type SharedRules = Arc<Rules>;
