//! Persistence: which backend a client returns to. A template a client and service, as IPVS calls it.
//!
//! One table per worker: steering brings all connections of a client to one worker
//! ([`crate::rules::ClientPart`]), so nobody else asks. Sets of eight 40-byte templates; a client has one
//! set, so finding and remembering cost the same whatever the fill. Control allocates the table with the first
//! persistent service there is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::index::{BackendIndex, ServiceIndex};
use crate::time::Millis;

/// Templates in a set.
const SET_TEMPLATES: usize = 8;
/// A template whose time was up while its client still had connections lives this long after the last of them has
/// ended, in milliseconds; IPVS re-arms it for as long.
const AFTERLIFE_MS: u32 = 60_000;
/// Time in which the hand goes round the table once, in milliseconds, where [`SETS_PER_TURN_MAX`] a millisecond are enough for
/// that: up to 64,000 sets. A larger table takes longer, that of 20 million flows (625,000 sets) 39 s, with a turn in each
/// millisecond. It delays nothing but the count: a client whose time is up is not found, and its place is taken first.
const SWEEP_PERIOD_MS: u64 = 4_000;
/// Sets visited in one turn at most: five cache lines each.
const SETS_PER_TURN_MAX: u64 = 16;

/// A client of a service: an address, or a network of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// The address with its host bits cleared; IPv4 as mapped (RFC 4291 section 2.5.5.2).
    network: [u64; 2],
    service: ServiceIndex,
    prefix_len: u8,
}

impl ClientKey {
    /// The client of `service` that `address` belongs to, when the first `prefix_len` bits make a client.
    pub fn new(service: ServiceIndex, address: IpAddr, prefix_len: u8) -> Self {
        let (bits, len) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), Ipv4Addr::BITS),
            IpAddr::V6(address) => (address.to_bits(), Ipv6Addr::BITS),
        };
        let host_bits = len - u32::from(prefix_len).min(len);
        let network = bits & u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Self { network: [(network >> 64) as u64, network as u64], service, prefix_len }
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Template {
    client: ClientKey,
    backend: BackendIndex,
    /// Open connections that hold it.
    open: u16,
    is_used: bool,
    touched: Millis,
    timeout_ms: u32,
}

const _: () = assert!(size_of::<Template>() == 40);

const FREE: Template = Template {
    client: ClientKey { network: [0; 2], service: ServiceIndex(0), prefix_len: 0 },
    backend: BackendIndex(0),
    open: 0,
    is_used: false,
    touched: Millis(0),
    timeout_ms: 0,
};

impl Template {
    /// Time left at `now`, in milliseconds; 0 when it is up.
    fn left_ms(&self, now: Millis) -> u32 {
        self.timeout_ms.saturating_sub(now.since(self.touched))
    }

    fn is_live(&self, now: Millis) -> bool {
        self.is_used && (self.open > 0 || self.left_ms(now) > 0)
    }
}

/// No room: every template of the client's set has open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplatesFull;

/// The templates of one worker.
#[derive(Debug)]
pub struct Templates {
    sets: Box<[[Template; SET_TEMPLATES]]>,
    secret: [u64; 2],
    used: u32,
    hand: usize,
    /// The hand's last turn; `None` before the first, whenever that is.
    swept: Option<Millis>,
}

impl Templates {
    /// Room for about `capacity` templates, all memory taken and touched now. `secret` is random: without it clients
    /// could choose addresses that share a set.
    pub fn new(capacity: usize, secret: [u64; 2]) -> Self {
        let sets = vec![[FREE; SET_TEMPLATES]; capacity.div_ceil(SET_TEMPLATES).max(1)].into_boxed_slice();
        Self { sets, secret, used: 0, hand: 0, swept: None }
    }

    /// Templates in use, those included whose time is up and that the hand has not met yet.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// The backend that `client` returns to.
    pub fn find(&self, client: &ClientKey, now: Millis) -> Option<BackendIndex> {
        let set = self.sets.get(self.set_of(client))?;
        let template = set.iter().find(|template| template.is_used && template.client == *client)?;
        template.is_live(now).then_some(template.backend)
    }

    /// Notes a new connection of `client` to `backend`: the client returns there for `timeout_ms` from now, and while
    /// it has connections.
    ///
    /// # Errors
    /// [`TemplatesFull`] when there is no room: then the client is not remembered.
    pub fn open(
        &mut self,
        client: &ClientKey,
        backend: BackendIndex,
        timeout_ms: u32,
        now: Millis,
    ) -> Result<(), TemplatesFull> {
        let at = self.set_of(client);
        let set = self.sets.get_mut(at).ok_or(TemplatesFull)?;
        let known = set.iter().position(|template| template.is_used && template.client == *client);
        let place = known.or_else(|| victim(set, now)).ok_or(TemplatesFull)?;
        let template = set.get_mut(place).ok_or(TemplatesFull)?;
        self.used += u32::from(!template.is_used);
        let open = if known.is_some() { template.open } else { 0 };
        *template = Template {
            client: *client,
            backend,
            // Beyond the counter's end it never falls to 0 again: the client stays remembered, nothing worse.
            open: open.saturating_add(1),
            is_used: true,
            touched: now,
            timeout_ms,
        };
        Ok(())
    }

    /// Notes the end of a connection of `client`, as of the hand's last turn.
    pub fn close(&mut self, client: &ClientKey) {
        let swept = self.swept;
        let at = self.set_of(client);
        let Some(set) = self.sets.get_mut(at) else { return };
        let known = set.iter_mut().find(|template| template.is_used && template.client == *client);
        let Some(template) = known.filter(|template| template.open > 0) else { return };
        if template.open < u16::MAX {
            template.open -= 1;
        }
        if template.open == 0 {
            let now = swept.unwrap_or(template.touched);
            template.timeout_ms = template.left_ms(now).max(AFTERLIFE_MS.min(template.timeout_ms));
            template.touched = now;
        }
    }

    /// Moves the hand as far as the time since its last turn asks for, within a turn's bounds, and frees templates whose
    /// time is up.
    pub fn sweep(&mut self, now: Millis) {
        let elapsed_ms = self.swept.map_or(0, |swept| u64::from(now.since(swept)));
        if elapsed_ms == 0 && self.swept.is_some() {
            return;
        }
        self.swept = Some(now);
        let due = (self.sets.len() as u64 * elapsed_ms).div_ceil(SWEEP_PERIOD_MS);
        for _ in 0..due.min(SETS_PER_TURN_MAX) {
            self.hand = if self.hand + 1 >= self.sets.len() { 0 } else { self.hand + 1 };
            let Some(set) = self.sets.get_mut(self.hand) else { return };
            for template in set.iter_mut().filter(|template| template.is_used) {
                if !template.is_live(now) {
                    *template = FREE;
                    self.used -= 1;
                }
            }
        }
    }

    /// The multiply-fold step of [`crate::flow::HashSecret`], over the client.
    fn set_of(&self, client: &ClientKey) -> usize {
        let [a, b] = self.secret;
        let multiply_fold = |x: u64, y: u64| {
            let product = u128::from(x) * u128::from(y);
            product as u64 ^ (product >> 64) as u64
        };
        let rest = u64::from(client.service.0) << 8 | u64::from(client.prefix_len);
        let [first, second] = client.network;
        let hash = multiply_fold(multiply_fold(first ^ a, second ^ b) ^ rest, a ^ b.rotate_left(32));
        let hash = u64::from(hash as u32 ^ (hash >> 32) as u32);
        ((hash * self.sets.len() as u64) >> 32) as usize
    }
}

/// The place for a newcomer: a free one, one whose time is up, else the one without connections that has the least
/// time left.
fn victim(set: &[Template; SET_TEMPLATES], now: Millis) -> Option<usize> {
    let without_connections = set.iter().enumerate().filter(|(_, template)| template.open == 0);
    without_connections
        .min_by_key(|(_, template)| if template.is_live(now) { template.left_ms(now) } else { 0 })
        .map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: ServiceIndex = ServiceIndex(3);
    const SECRET: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

    fn client(number: u32, prefix_len: u8) -> ClientKey {
        ClientKey::new(WEB, Ipv4Addr::from(0x0a00_0000 + number).into(), prefix_len)
    }

    #[test]
    fn a_client_returns_until_its_time_is_up() {
        let mut templates = Templates::new(64, SECRET);
        let (one, two) = (client(1, 32), client(2, 32));
        templates.open(&one, BackendIndex(7), 10_000, Millis(0)).unwrap();
        templates.close(&one);
        assert_eq!(templates.find(&one, Millis(9_999)), Some(BackendIndex(7)));
        assert_eq!(templates.find(&two, Millis(0)), None);
        assert_eq!(templates.find(&one, Millis(10_000)), None);
        assert_eq!(templates.find(&ClientKey { service: ServiceIndex(4), ..one }, Millis(0)), None);
    }

    #[test]
    fn open_connections_hold_the_template_and_the_last_leaves_it_a_while() {
        let mut templates = Templates::new(64, SECRET);
        let one = client(1, 32);
        templates.open(&one, BackendIndex(7), 100_000, Millis(0)).unwrap();
        templates.open(&one, BackendIndex(7), 100_000, Millis(0)).unwrap();
        templates.sweep(Millis(500_000));
        templates.close(&one);
        assert_eq!(templates.find(&one, Millis(900_000)), Some(BackendIndex(7)), "one is still open");
        templates.sweep(Millis(900_000));
        templates.close(&one);
        assert_eq!(templates.find(&one, Millis(959_999)), Some(BackendIndex(7)));
        assert_eq!(templates.find(&one, Millis(960_000)), None);
        templates.close(&one);
    }

    #[test]
    fn a_network_is_one_client() {
        let mut templates = Templates::new(64, SECRET);
        templates.open(&client(1, 24), BackendIndex(7), 10_000, Millis(0)).unwrap();
        assert_eq!(templates.find(&client(254, 24), Millis(1)), Some(BackendIndex(7)));
        assert_eq!(templates.find(&client(256, 24), Millis(1)), None);
        assert_eq!(templates.find(&client(1, 32), Millis(1)), None, "another client since the rules changed");
        assert_eq!(client(5, 0), client(1 << 20, 0));
    }

    #[test]
    fn a_full_set_gives_up_who_has_the_least_time_left_and_never_one_with_connections() {
        let mut templates = Templates::new(8, SECRET);
        for number in 0..8 {
            templates.open(&client(number, 32), BackendIndex(number), 10_000 + number, Millis(0)).unwrap();
        }
        assert_eq!(templates.open(&client(9, 32), BackendIndex(9), 1_000, Millis(1)), Err(TemplatesFull));
        for number in [3, 5] {
            templates.close(&client(number, 32));
        }
        templates.open(&client(9, 32), BackendIndex(9), 1_000, Millis(2)).unwrap();
        assert_eq!(templates.find(&client(3, 32), Millis(2)), None);
        assert_eq!(templates.find(&client(5, 32), Millis(2)), Some(BackendIndex(5)));
        assert_eq!(templates.used(), 8);
    }

    #[test]
    fn the_hand_frees_what_is_over() {
        let mut templates = Templates::new(64, SECRET);
        for number in 0..40 {
            // Some sets of eight may be full: those are not remembered.
            let _ = templates.open(&client(number, 32), BackendIndex(1), 1_000, Millis(0));
            if number != 17 {
                templates.close(&client(number, 32));
            }
        }
        assert!(templates.used() > 20);
        for now in 1_001..=1_001 + SWEEP_PERIOD_MS as u32 {
            templates.sweep(Millis(now));
        }
        assert_eq!(templates.used(), 1, "the one with a connection");
        assert_eq!(templates.find(&client(17, 32), Millis(9_000)), Some(BackendIndex(1)));
    }
}
