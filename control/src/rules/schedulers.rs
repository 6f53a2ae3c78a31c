//! What the builder does for schedulers: their tables, the weights that quiesced backends had, and which services'
//! state has a cache.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::index::{BackendIndex, ServiceIndex};
use dataplane::rules::scheduler::{Seat, TableError};
use dataplane::rules::{Member, Scheduler};

use super::checked::Service;

/// What is remembered from one ruleset to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedulers {
    /// The last weight above 0 of each backend, by slot.
    weights: BTreeMap<usize, u32>,
    /// Services whose state has a cache, by slot.
    caches: BTreeSet<usize>,
}

impl Schedulers {
    /// The slot is another backend's from now on.
    pub(super) fn forget(&mut self, backend: BackendIndex) {
        self.weights.remove(&backend.as_usize());
    }

    /// The scheduler of `service`, whose members are in the order of its backends.
    pub(super) fn build(&mut self, service: &Service, members: &[Member]) -> Result<Scheduler, TableError> {
        let pairs = || service.backends.iter().zip(members);
        // While a weight rises slowly all of them are multiplied (`ramps`): those kept have to be as well.
        let scale = pairs().map(|(backend, member)| member.weight / backend.weight.max(1)).max();
        let scale = scale.unwrap_or(1).max(1);
        let seats: Vec<Seat> = pairs()
            .map(|(backend, member)| {
                // A drained backend still has its weight in the rules; one of weight 0 that it had before.
                let kept = self.weights.entry(member.backend.as_usize()).or_default();
                *kept = if backend.weight > 0 { backend.weight } else { *kept };
                let weight_kept = if member.weight > 0 { member.weight } else { *kept * scale };
                let (address, l4_port) = (backend.endpoint.address, backend.endpoint.l4_port);
                Seat { address, l4_port, weight_kept }
            })
            .collect();
        Scheduler::new(service.scheduler, members, &seats)
    }

    /// Whether workers need another state for the service: it begins or ceases to have a cache.
    pub(super) fn needs_other_cache(&mut self, index: ServiceIndex, has_cache: bool) -> bool {
        if has_cache { self.caches.insert(index.as_usize()) } else { self.caches.remove(&index.as_usize()) }
    }
}

#[cfg(test)]
mod tests {
    use dataplane::flow::FlowKey;
    use dataplane::rules::{Load, Loads};
    use dataplane::wire::{AddressPair, PortPair};

    use super::*;
    use crate::rules::Rules;
    use crate::rules::build::{Builder, Built, NextHops, PortFacts};
    use crate::rules::slots::NoWorkers;

    const INDEX: ServiceIndex = ServiceIndex(0);

    /// Everybody takes connections and has nothing to do.
    struct Idle;

    impl Loads for Idle {
        fn load(&self, _member: usize) -> Load {
            Load::default()
        }

        fn takes(&self, _member: usize) -> bool {
            true
        }
    }

    fn builder() -> Builder {
        Builder::new(
            vec![PortFacts {
                mac: crate::rules::MacAddress([2; 6]),
                is_station: true,
                mtu: 0,
                udp_offload: None,
            }],
            2,
        )
    }

    fn build(builder: &mut Builder, scheduler: &str, backends: &[&str]) -> Built {
        let backends: Vec<_> = backends
            .iter()
            .enumerate()
            .map(|(n, keys)| format!("{{ address = \"10.0.0.{}\", {keys} }}", n + 1))
            .collect();
        let text = format!(
            "[[port]]\nname = \"p\"\ndevice = \"af_packet:eth0\"\nkernel = true\n\
             [[service]]\nname = \"s\"\nlisten = \"tcp 203.0.113.1:80\"\nmode = \"dr\"\n{scheduler}\n\
             backend = [{}]\n",
            backends.join(", ")
        );
        let rules = Rules::parse("test", &text).unwrap_or_else(|errors| panic!("{}", errors.plain()));
        builder.build(&rules, &NextHops::new(), &NoWorkers).unwrap()
    }

    /// How many of a thousand clients each member gets; the last number is of those who are refused.
    fn shares(built: &Built) -> [usize; 3] {
        let service = built.ruleset.service(INDEX).unwrap();
        let mut shares = [0; 3];
        for client in 0..1_000 {
            let addresses = AddressPair::new((0xc612_0000 + client).into(), [203, 0, 113, 1].into());
            let key = FlowKey { addresses: addresses.into(), ports: PortPair::new(5, 80), protocol: 6 };
            let state = dataplane::rules::ServiceState::new(0);
            let choice = service.scheduler.choose(&service.members, &state, &key, &Idle);
            shares[choice.map_or(2, |choice| choice.member)] += 1;
        }
        shares
    }

    #[test]
    fn clients_of_a_quiesced_backend_are_refused_without_fallback_whatever_quiesced_it() {
        for scheduler in
            ["scheduler = \"sh\"", "scheduler = \"conhash\"", "scheduler = \"mh\"\nhash = \"ipvs\""]
        {
            let strict = format!("{scheduler}\nfallback = false");
            let mut builder = builder();
            let before = shares(&build(&mut builder, &strict, &["weight = 3", "weight = 3"]));
            assert!(before[0] > 300 && before[1] > 300 && before[2] == 0, "{before:?}");
            let quiesced = shares(&build(&mut builder, &strict, &["weight = 0", "weight = 3"]));
            assert_eq!(quiesced, [0, before[1], before[0]], "{scheduler}: by weight 0");
            let drained =
                build(&mut self::builder(), &strict, &["weight = 3, state = \"drain\"", "weight = 3"]);
            assert_eq!(shares(&drained), quiesced, "{scheduler}: by its state, on a director that starts so");
            let rehashed = shares(&build(&mut builder, scheduler, &["weight = 0", "weight = 3"]));
            assert_eq!(rehashed, [0, 1_000, 0], "{scheduler}: with fallback");
        }
    }

    #[test]
    fn workers_get_a_cache_with_the_scheduler_that_has_one_and_give_it_back_with_the_next() {
        let mut builder = builder();
        let mut caches = |scheduler: &str| {
            let built = build(&mut builder, scheduler, &["weight = 1"]);
            let states = built.publication(|| 7).states;
            states
                .iter()
                .map(|(index, state)| (*index, state.as_ref().unwrap().locality.is_some()))
                .collect::<Vec<_>>()
        };
        assert_eq!(caches("scheduler = \"wlc\""), [(INDEX, false)]);
        assert_eq!(caches("scheduler = \"lblc\""), [(INDEX, true)]);
        assert_eq!(caches("scheduler = \"lblcr\""), []);
        assert_eq!(caches("scheduler = \"rr\""), [(INDEX, false)]);
        assert_eq!(caches("scheduler = \"wrr\""), []);
    }

    #[test]
    fn a_service_keeps_its_slot_and_its_backends_theirs_whatever_the_scheduler() {
        let mut builder = builder();
        build(&mut builder, "scheduler = \"rr\"", &["weight = 1", "weight = 2"]);
        for kind in crate::rules::SchedulerKind::ALL {
            let built =
                build(&mut builder, &format!("scheduler = \"{kind}\""), &["weight = 1", "weight = 2"]);
            assert!(built.fresh_services.is_empty() && built.fresh_backends.is_empty(), "{kind}");
            let readers = built.ruleset.load_readers.len();
            assert_eq!(readers, if kind.reads_loads() { 2 } else { 0 }, "{kind}");
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_every_scheduler_and_every_hash() {
        let text = include_str!("../../../docs/schedulers.md");
        let has_row = |start: String| text.lines().any(|line| line.starts_with(&start));
        for kind in crate::rules::SchedulerKind::ALL {
            assert!(has_row(format!("| `{kind}` | ")), "{kind}");
        }
        for hash in crate::rules::HashKey::ALL {
            assert!(has_row(format!("| `\"{hash}\"` | ")), "{hash}");
        }
    }

    #[test]
    fn each_worker_begins_by_its_own_seed() {
        let built = build(&mut builder(), "scheduler = \"rr\"", &["weight = 1"]);
        let seed = |seed| built.publication(|| seed).states.remove(0).1.unwrap().seed;
        assert_eq!((seed(5), seed(6)), (5, 6));
    }
}
