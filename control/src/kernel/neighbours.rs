//! Watches the kernel's routes and neighbours for the backends' next hops and keeps their entries (ARP, neighbour discovery) fresh.
//!
//! One task. For each target it asks the kernel for the route (RTM_GETROUTE), and where that leaves by one of
//! our twins it installs the next hop as a *managed* neighbour (NTF_EXT_MANAGED, Linux 5.16): from then on
//! the kernel itself asks, re-asks and refreshes, and never drops the entry as unused, although the packets
//! of the data path pass it by. What changes comes as netlink notifications; a slow turn of everything every
//! five seconds catches what is not notified (routes that die with an address or a link).
//!
//! It installs nothing on an interface that is not in [`Wanted::ports`], and leaves permanent entries, which
//! an administrator typed, as they are. Weak spots, told plainly: of an ECMP route it follows the one path the
//! kernel picks for a packet from this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    connect,
    error::{KernelError, as_io, refused, socket},
    link,
    next_hops::{Hop, NextHops, Table, Unresolved, parse_neighbour, parse_route},
};

/// A change of routes or links is followed by a new look at all routes after this long, so that a routing
/// daemon that loads a full table costs ten looks a second and not one a route.
const SETTLE: Duration = Duration::from_millis(100);

/// How often everything is looked at again. Also the pace of [`Refresh::Use`]; the kernel's own for managed
/// entries is the same (`interval_probe_time_ms`, 5,000).
const TURN: Duration = Duration::from_secs(5);

/// What the watcher is to find out. Replaced as a whole on a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The twins: interface index in the kernel to the index of the port. Nothing else is ever touched.
    pub ports: BTreeMap<u32, usize>,
    /// The addresses to resolve: backends, and whatever else the data path sends to on its own.
    pub targets: BTreeSet<IpAddr>,
}

/// Who keeps an entry from going stale unnoticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// The kernel (NTF_EXT_MANAGED, Linux 5.16).
    Managed,
    /// We, with NTF_USE every five seconds, as if we had sent a packet: what older kernels know.
    Use,
}

impl Refresh {
    /// What this kernel can do. An older one does not refuse the managed flag, it ignores it: so its release
    /// number decides.
    pub fn of_this_kernel() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        if release_at_least(&release, (5, 16)) { Self::Managed } else { Self::Use }
    }
}

/// The running watcher. [`Neighbours::stop`] takes its neighbour entries back; dropping it does the same as
/// soon as the runtime runs the task again.
#[derive(Debug)]
pub struct Neighbours {
    wanted: watch::Sender<Wanted>,
    rows: watch::Receiver<Arc<NextHops>>,
    task: JoinHandle<()>,
}

impl Neighbours {
    /// Opens two netlink sockets in the calling thread's network namespace, takes a first look, and watches
    /// from then on. The first rows are there on return; most will say [`Unresolved::Asking`].
    ///
    /// # Errors
    /// [`KernelError::Io`] when the kernel refuses the sockets, [`KernelError::Refused`] when it does not
    /// list its neighbours. A target that cannot be resolved is no error: its row says why.
    pub async fn start(wanted: Wanted, refresh: Refresh) -> Result<Self, KernelError> {
        // Notifications have a socket of their own: when it overflows, no answer to a request is lost with
        // them.
        let groups = [
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Link,
        ];
        let (connection, _, events) = rtnetlink::new_multicast_connection(&groups).map_err(socket)?;
        tokio::spawn(connection);
        let (publish, rows) = watch::channel(Arc::default());
        let mut watcher = Watcher {
            handle: connect()?,
            refresh,
            wanted,
            table: Table::default(),
            installed: BTreeSet::new(),
            publish,
        };
        watcher.list_entries().await?;
        watcher.look().await;
        let (wanted, receiver) = watch::channel(watcher.wanted.clone());
        let task = tokio::spawn(watcher.run(receiver, events.map(|(message, _)| message)));
        Ok(Self { wanted, rows, task })
    }

    /// Replaces what is wanted; the rows follow at once.
    pub fn set_wanted(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|old| {
            let changed = *old != wanted;
            *old = wanted;
            changed
        });
    }

    /// The rows, and every later change of them.
    pub fn next_hops(&self) -> watch::Receiver<Arc<NextHops>> {
        self.rows.clone()
    }

    /// Removes the neighbour entries that were installed and ends the task.
    pub async fn stop(self) {
        drop(self.wanted);
        // The task ends by itself now; it can only fail by a panic, which the runtime has reported already.
        let _ = self.task.await;
    }
}

/// The task's own state.
struct Watcher {
    handle: Handle,
    refresh: Refresh,
    wanted: Wanted,
    table: Table,
    /// Neighbours we installed and nobody has taken away or made permanent since.
    installed: BTreeSet<Hop>,
    publish: watch::Sender<Arc<NextHops>>,
}

/// What a notification asks for.
#[derive(Debug, PartialEq, Eq)]
enum Note {
    /// Nothing that concerns us.
    Nothing,
    /// The rows may differ.
    Publish,
    /// Routes or installed entries may differ.
    Look,
    /// Notifications were lost: the entries have to be listed again.
    Relist,
}

impl Watcher {
    async fn run(
        mut self,
        mut wanted: watch::Receiver<Wanted>,
        mut events: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
    ) {
        let mut turn = interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at: Option<Instant> = None;
        loop {
            tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => {
                        self.wanted = wanted.borrow_and_update().clone();
                        // An interface that became ours had entries before.
                        self.relist().await;
                        self.look().await;
                    }
                    Err(_) => break,
                },
                event = events.next() => match event.map(|event| self.note(event)) {
                    Some(Note::Nothing) => {}
                    Some(Note::Publish) => self.publish(),
                    Some(Note::Look) => { look_at.get_or_insert(Instant::now() + SETTLE); }
                    Some(Note::Relist) => {
                        self.relist().await;
                        look_at.get_or_insert(Instant::now() + SETTLE);
                    }
                    None => break,
                },
                _ = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                    look_at = None;
                    self.look().await;
                }
                _ = turn.tick() => {
                    self.look().await;
                    if self.refresh == Refresh::Use {
                        self.use_again().await;
                    }
                }
            }
        }
        for hop in std::mem::take(&mut self.installed) {
            self.remove(hop).await;
        }
    }

    /// Takes one notification into the table.
    fn note(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> Note {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                self.note_entry(&message)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                self.note_loss(&message)
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(_)
                | RouteNetlinkMessage::DelRoute(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
                | RouteNetlinkMessage::NewRule(_)
                | RouteNetlinkMessage::DelRule(_)
                | RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_),
            ) => Note::Look,
            NetlinkPayload::Overrun(_) => Note::Relist,
            _ => Note::Nothing,
        }
    }

    fn note_entry(&mut self, message: &NeighbourMessage) -> Note {
        let Some((hop, entry)) = parse_neighbour(message) else { return Note::Nothing };
        if !self.wanted.ports.contains_key(&hop.0) {
            return Note::Nothing;
        }
        if entry.state == NeighbourState::Permanent {
            // Somebody typed it over ours: it is theirs now.
            self.installed.remove(&hop);
        }
        self.table.entries.insert(hop, entry);
        Note::Publish
    }

    fn note_loss(&mut self, message: &NeighbourMessage) -> Note {
        let Some((hop, _)) = parse_neighbour(message) else { return Note::Nothing };
        self.table.entries.remove(&hop);
        // `ip neigh flush` and a link going down take managed entries too: put ours back.
        if self.installed.remove(&hop) { Note::Look } else { Note::Nothing }
    }

    /// Looks up every route again, installs and removes neighbours accordingly, and publishes.
    async fn look(&mut self) {
        self.table.ports.clone_from(&self.wanted.ports);
        let mut routes = BTreeMap::new();
        for &target in &self.wanted.targets {
            routes.insert(target, self.route(target).await);
        }
        self.table.routes = routes;
        self.table.refused.clear();
        let hops = self.table.hops();
        for &hop in hops.difference(&self.installed.clone()) {
            self.install(hop).await;
        }
        for hop in self.installed.clone().difference(&hops) {
            self.installed.remove(hop);
            self.remove(*hop).await;
        }
        self.publish();
    }

    /// The neighbour towards `target`, by the kernel's routes.
    async fn route(&self, target: IpAddr) -> Result<Hop, Unresolved> {
        let question = match target {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
        };
        let hop = match self.handle.route().get(question).execute().try_next().await {
            Ok(Some(message)) => parse_route(target, &message)?,
            Ok(None) => return Err(Unresolved::NoRoute { reason: "no answer".into() }),
            Err(error) => return Err(Unresolved::NoRoute { reason: as_io(error).to_string() }),
        };
        if self.wanted.ports.contains_key(&hop.0) {
            return Ok(hop);
        }
        Err(Unresolved::ForeignInterface { ifname: link::name_of(&self.handle, hop.0).await })
    }

    async fn install(&mut self, hop: Hop) {
        let (ifindex, next_hop) = hop;
        let permanent = |entry: &super::next_hops::Entry| entry.state == NeighbourState::Permanent;
        if self.table.entries.get(&hop).is_some_and(permanent) {
            return;
        }
        // Either flag leaves the state of an entry that exists as it is, and starts asking for one that does
        // not.
        let request = self.handle.neighbours().add(ifindex, next_hop).replace();
        let mut request = request.state(NeighbourState::None);
        match self.refresh {
            Refresh::Managed => {
                let flag = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
                request.message_mut().attributes.push(flag);
            }
            Refresh::Use => request.message_mut().header.flags |= NeighbourFlags::Use,
        }
        match request.execute().await {
            Ok(()) => drop(self.installed.insert(hop)),
            Err(error) => drop(self.table.refused.insert(hop, as_io(error).to_string())),
        }
    }

    /// Makes the kernel believe that every entry of ours was just needed, so that it proves a stale one.
    async fn use_again(&mut self) {
        for hop in self.installed.clone() {
            self.install(hop).await;
        }
        self.publish();
    }

    /// Takes an entry of ours back. One that is gone already, with its interface for instance, is no matter.
    async fn remove(&mut self, hop: Hop) {
        let (ifindex, next_hop) = hop;
        let message = self.handle.neighbours().add(ifindex, next_hop).message_mut().clone();
        let _ = self.handle.neighbours().del(message).execute().await;
    }

    /// Reads the neighbour table anew; on failure the old view stands until the next notification.
    async fn relist(&mut self) {
        let _ = self.list_entries().await;
    }

    async fn list_entries(&mut self) -> Result<(), KernelError> {
        let mut messages: Vec<NeighbourMessage> = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.handle.neighbours().get().set_address_family(family).execute();
            let of_family: Vec<_> = request.try_collect().await.map_err(refused("list the neighbours"))?;
            messages.extend(of_family);
        }
        let ports = &self.wanted.ports;
        self.table.entries = messages
            .iter()
            .filter_map(parse_neighbour)
            .filter(|((ifindex, _), _)| ports.contains_key(ifindex))
            .collect();
        Ok(())
    }

    fn publish(&self) {
        let rows = self.table.rows();
        self.publish.send_if_modified(|old| {
            let changed = **old != rows;
            if changed {
                *old = Arc::new(rows);
            }
            changed
        });
    }
}

/// Whether a release such as "6.1.0-18-amd64" is `least` or later.
fn release_at_least(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        assert!(release_at_least("6.1.0-18-amd64\n", (5, 16)));
        assert!(release_at_least("5.16-rc1", (5, 16)));
        assert!(!release_at_least("5.9.16", (5, 16)));
        assert!(!release_at_least("", (5, 16)));
    }
}
