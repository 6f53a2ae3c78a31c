//! What the standing of single backends comes to for their service. Pure.

use crate::rules::{Backend, BackendState, Health, Service};

/// The weights of those that serve: up by the rules and by their checks, of which `standing` has one entry a backend.
pub(super) fn weight_up(service: &Service, standing: &[bool]) -> u64 {
    let serves = |(backend, is_up): &(&Backend, &bool)| **is_up && backend.state == BackendState::Up;
    service.backends.iter().zip(standing).filter(serves).map(|(backend, _)| u64::from(backend.weight)).sum()
}

/// Whether enough of them serve.
pub(super) fn is_met(service: &Service, health: &Health, standing: &[bool]) -> bool {
    weight_up(service, standing) >= u64::from(health.quorum_or_default())
}

/// What checks say of each backend. Below the quorum those that are left keep what they have and get no more, where a sorry server
/// takes that; without one they go on, as a few are better than none.
pub(super) fn states<'a>(
    service: &'a Service,
    health: &'a Health,
    standing: &'a [bool],
) -> impl Iterator<Item = BackendState> + 'a {
    let failed = if health.inhibit { BackendState::Drain } else { BackendState::Down };
    let is_spared = service.sorry.is_some() && !is_met(service, health, standing);
    let left = if is_spared { BackendState::Drain } else { BackendState::Up };
    standing.iter().map(move |is_up| if *is_up { left } else { failed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rules;

    /// What becomes of backends of the weights 5, 3, 1, of which the third is drained by the rules, by the service's settings.
    fn said(settings: &str, standing: [bool; 3]) -> Vec<BackendState> {
        let text = format!(
            "[[port]]\nname = \"p\"\ndevice = \"tap:xd0\"\nkernel = true\nlocal_addresses = [\"10.0.0.64/28\"]\n\
             [[service]]\nname = \"s\"\nlisten = \"tcp 203.0.113.1:80\"\nmode = \"fullnat\"\n{settings}\n\
             backend = [{{ address = \"10.0.0.1\", weight = 5 }}, {{ address = \"10.0.0.2\", weight = 3 }}, \
             {{ address = \"10.0.0.3\", state = \"drain\" }}]"
        );
        let rules =
            Rules::parse("test", &text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()));
        let service = &rules.services[0];
        states(service, service.health.as_deref().unwrap(), &standing).collect()
    }

    #[test]
    fn who_fails_is_down_or_keeps_what_he_has() {
        use BackendState::{Down, Drain, Up};
        assert_eq!(said("health = { check = \"tcp\" }", [false, true, true]), [Down, Up, Up]);
        assert_eq!(
            said("health = { check = \"tcp\", inhibit = true }", [false, true, false]),
            [Drain, Up, Drain]
        );
    }

    #[test]
    fn below_the_quorum_the_sorry_server_takes_new_connections() {
        use BackendState::{Down, Drain, Up};
        let sorry = "sorry = { address = \"10.0.0.9\" }\nhealth = { check = \"tcp\", quorum = 4 }";
        assert_eq!(said(sorry, [true, false, true]), [Up, Down, Up]);
        assert_eq!(said(sorry, [false, true, true]), [Down, Drain, Drain], "3 are left, and 4 are needed");
        let alone = "health = { check = \"tcp\", quorum = 4, withdraw = true }";
        assert_eq!(said(alone, [false, true, true]), [Down, Up, Up]);
    }
}
