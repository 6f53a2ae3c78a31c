//! Slow start: the weights of backends that come later, or back, rise to what the rules say.
//!
//! Pure: the time is handed in. Weights are whole numbers and a backend's may be 1, so while one of a service's
//! weights rises all of them are multiplied by [`SCALE`]: shares stay what they were, and a share of a 64th can be told.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::index::BackendIndex;
use dataplane::rules::{Member, Service};

/// Steps in which a weight of 1 rises. With it the greatest weight, 1,000,000, still fits 32 bits.
const SCALE: u32 = 64;

/// One weight that rises.
#[derive(Clone, Copy, Debug)]
struct Ramp {
    /// When the backend came.
    since: Duration,
    /// How long it takes.
    over: Duration,
    /// Where it ends.
    weight: u32,
    /// What workers were told last, multiplied by [`SCALE`].
    told: u32,
}

impl Ramp {
    /// The weight at `now`, multiplied by [`SCALE`]; at least 1, or nobody would ever come.
    fn weight_at(&self, now: Duration) -> u32 {
        let whole = u128::from(self.weight * SCALE);
        let elapsed = now.saturating_sub(self.since).min(self.over);
        let weight = whole * elapsed.as_millis() / self.over.as_millis().max(1);
        // Not above `whole`, which fits.
        (weight as u32).max(1)
    }

    fn is_over_at(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= self.over
    }
}

/// All weights that rise, by the backend's slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Ramps {
    now: Duration,
    rising: BTreeMap<usize, Ramp>,
}

impl Ramps {
    /// Tells the time, counted from any moment; it does not go back.
    pub(super) fn advance_to(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Whether a weight is another one at `now` than workers were told.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.rising.values().any(|ramp| ramp.is_over_at(now) || ramp.weight_at(now) != ramp.told)
    }

    /// The weight that workers were told of the backend in `slot`, while it rises.
    pub(super) fn weight(&self, slot: usize) -> Option<f64> {
        self.rising.get(&slot).map(|ramp| f64::from(ramp.told) / f64::from(SCALE))
    }

    /// Forgets backends that are gone.
    pub(super) fn retain(&mut self, is_live: impl Fn(usize) -> bool) {
        self.rising.retain(|slot, _| is_live(*slot));
    }

    /// Turns `members`, with the weights that the rules say, to those of now. `before` is the service as workers know
    /// it: who takes connections there does not begin again, and where there is none all begin together, at once.
    pub(super) fn apply(
        &mut self,
        members: &mut [Member],
        slow_start: Option<Duration>,
        before: Option<&Service>,
    ) {
        for member in members.iter() {
            self.follow(*member, slow_start, before);
        }
        let slot = |member: &Member| member.backend.as_usize();
        if !members.iter().any(|member| self.rising.contains_key(&slot(member))) {
            return;
        }
        for member in members {
            member.weight = match self.rising.get_mut(&slot(member)) {
                Some(ramp) => {
                    ramp.told = ramp.weight_at(self.now);
                    ramp.told
                }
                None => member.weight * SCALE,
            };
        }
    }

    /// Begins, goes on with or ends the ramp of one backend.
    fn follow(&mut self, member: Member, slow_start: Option<Duration>, before: Option<&Service>) {
        let slot = member.backend.as_usize();
        let Some(over) = slow_start.filter(|_| member.weight > 0) else {
            self.rising.remove(&slot);
            return;
        };
        let is_new = before.is_some_and(|before| !takes_connections(before, member.backend));
        let rising = self.rising.get(&slot);
        let since = if is_new { Some(self.now) } else { rising.map(|ramp| ramp.since) };
        let ramp = since.map(|since| Ramp { since, over, weight: member.weight, told: 0 });
        match ramp.filter(|ramp| !ramp.is_over_at(self.now)) {
            Some(ramp) => self.rising.insert(slot, ramp),
            None => self.rising.remove(&slot),
        };
    }
}

fn takes_connections(service: &Service, backend: BackendIndex) -> bool {
    service.members.iter().any(|member| member.backend == backend && member.weight > 0)
}

#[cfg(test)]
mod tests {
    use dataplane::rules::{Mode, Scheduler};

    use super::*;

    const SLOW_START: Option<Duration> = Some(Duration::from_secs(10));

    /// Weights by slot, from 0.
    fn members(weights: &[u32]) -> Vec<Member> {
        let indices = (0..).map(BackendIndex);
        indices.zip(weights).map(|(backend, weight)| Member { backend, weight: *weight }).collect()
    }

    /// The rules say `weights` at second `second`; what workers are told.
    fn told(ramps: &mut Ramps, before: &mut Option<Service>, second: u64, weights: &[u32]) -> Vec<u32> {
        let mut members = members(weights);
        ramps.advance_to(Duration::from_secs(second));
        ramps.apply(&mut members, SLOW_START, before.as_ref());
        *before = Some(Service::new(Mode::Dr, Scheduler::RoundRobin, members.clone().into()));
        members.iter().map(|member| member.weight).collect()
    }

    #[test]
    fn who_comes_later_rises_in_steps_and_then_all_is_as_the_rules_say() {
        let (mut ramps, mut before) = (Ramps::default(), None);
        assert_eq!(told(&mut ramps, &mut before, 0, &[5, 3]), [5, 3], "all begin together");
        assert_eq!(told(&mut ramps, &mut before, 100, &[5, 3, 2]), [320, 192, 1]);
        assert_eq!(told(&mut ramps, &mut before, 105, &[5, 3, 2]), [320, 192, 64], "half of 2");
        assert_eq!(told(&mut ramps, &mut before, 109, &[5, 3, 2]), [320, 192, 115]);
        assert!(ramps.is_due(Duration::from_secs(110)));
        assert_eq!(told(&mut ramps, &mut before, 110, &[5, 3, 2]), [5, 3, 2]);
        assert!(!ramps.is_due(Duration::from_secs(1_000)));
    }

    #[test]
    fn who_was_drained_begins_again_and_who_is_drained_ends() {
        let (mut ramps, mut before) = (Ramps::default(), None);
        told(&mut ramps, &mut before, 0, &[1, 1]);
        assert_eq!(told(&mut ramps, &mut before, 1, &[1, 0]), [1, 0]);
        assert_eq!(told(&mut ramps, &mut before, 2, &[1, 1]), [64, 1]);
        assert_eq!(told(&mut ramps, &mut before, 5, &[1, 0]), [1, 0]);
        assert_eq!(told(&mut ramps, &mut before, 7, &[1, 1]), [64, 1], "from the beginning");
        assert_eq!(told(&mut ramps, &mut before, 12, &[1, 4]), [64, 128], "on the way to another weight");
    }

    #[test]
    fn workers_are_told_only_when_a_step_is_done() {
        let (mut ramps, mut before) = (Ramps::default(), None);
        told(&mut ramps, &mut before, 0, &[1]);
        told(&mut ramps, &mut before, 10, &[1, 1]);
        let step = Duration::from_secs(10) / SCALE;
        assert!(!ramps.is_due(Duration::from_secs(10) + step / 2));
        assert!(ramps.is_due(Duration::from_secs(10) + step * 2 + Duration::from_millis(1)));
    }

    #[test]
    fn the_greatest_weight_fits() {
        let (mut ramps, mut before) = (Ramps::default(), None);
        told(&mut ramps, &mut before, 0, &[1_000_000]);
        told(&mut ramps, &mut before, 10, &[1_000_000, 1_000_000]);
        let weights = told(&mut ramps, &mut before, 15, &[1_000_000, 1_000_000]);
        assert_eq!(weights, [64_000_000, 32_000_000]);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (mut ramps, mut before) = (Ramps::default(), None);
        told(&mut ramps, &mut before, 0, &[1]);
        told(&mut ramps, &mut before, 1, &[1, 1]);
        ramps.retain(|slot| slot != 1);
        assert!(!ramps.is_due(Duration::from_secs(60)));
    }
}
