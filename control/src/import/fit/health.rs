//! How backends are checked, within the bounds of `[service.health]`.

use super::backends::l4_port;
use crate::import::draft::{Check, Health, Note, Service};
use crate::rules::is_host;

const INTERVAL_MS: (u64, u64) = (100, 3_600_000);
const TIMEOUT_MIN_MS: u64 = 10;
const FALL_MAX: u32 = 100;
/// Bytes of a datagram that leaves in one piece.
const SEND_BYTES_MAX: usize = 1_232;
/// HTTP's, where no port is known at all.
const L4_PORT_GUESSED: u16 = 80;

pub(super) fn fit(service: &mut Service) {
    let of_service = l4_port(service);
    let Some(mut health) = service.health.take() else {
        for backend in &mut service.backends {
            (backend.check_address, backend.check_l4_port) = (None, None);
        }
        return;
    };
    bounds(service, &mut health);
    let too_long = matches!(&health.check, Check::Udp { send, .. } if send.len() > SEND_BYTES_MAX);
    if too_long {
        service.note(
            "payload of the check",
            format!("at most {SEND_BYTES_MAX} bytes fit a datagram on every way"),
        );
        if let Check::Udp { send, .. } = &mut health.check {
            send.clear();
        }
    }
    places(service, &health, of_service);
    if health.quorum > 1 && service.sorry.is_none() {
        let why = "below it a sorry server takes over, the VIP leaves, or a hook is told, and there is none of these: `[service.sorry]`, \
                   `withdraw`, `notify`";
        service.note(format!("quorum {}", health.quorum), why);
        health.quorum = 1;
    }
    service.health = Some(health);
}

fn bounds(service: &mut Service, health: &mut Health) {
    let interval = health.interval_ms.clamp(INTERVAL_MS.0, INTERVAL_MS.1);
    if interval != health.interval_ms {
        service.note(format!("interval of {} ms", health.interval_ms), "allowed: 100 ms to 1 hour");
        health.interval_ms = interval;
    }
    let timeout = health.timeout_ms.max(TIMEOUT_MIN_MS);
    if timeout > interval {
        service.note(format!("timeout of {timeout} ms"), "a check ends before the next one begins");
    }
    health.timeout_ms = timeout.min(interval);
    if health.fall > FALL_MAX {
        service.note(format!("{} retries", health.fall - 1), "a backend fails after at most 100 checks");
        health.fall = FALL_MAX;
    }
}

/// A backend says where it is checked only where that is not where it serves.
fn places(service: &mut Service, health: &Health, of_service: Option<u16>) {
    let has_place = !matches!(health.check, Check::Script { .. });
    for backend in &mut service.backends {
        backend.check_address = backend.check_address.filter(|address| *address != backend.address);
        if let Some(address) = backend.check_address.take_if(|address| !is_host(*address)) {
            backend.notes.push(Note::new(format!("check at {address}"), "not the address of a host"));
        }
        let serves_at = backend.l4_port.or(of_service);
        backend.check_l4_port = backend.check_l4_port.filter(|l4_port| Some(*l4_port) != serves_at);
        let is_asked = has_place && backend.left_out.is_none();
        if is_asked && serves_at.or(backend.check_l4_port).is_none() {
            let why = format!(
                "nothing says which one is checked, and {L4_PORT_GUESSED} is a guess: put the right one here"
            );
            backend.notes.push(Note::new("port of the check", why));
            backend.check_l4_port = Some(L4_PORT_GUESSED);
        }
    }
}
