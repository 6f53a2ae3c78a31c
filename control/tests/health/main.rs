//! Checks against servers nobody here wrote, and against such as misbehave. Each test has a network namespace of its own, so l4_ports
//! are free. Needs root, dnsmasq, nginx,
//! openssl, socat and grpcio of the system's Python.

mod datagrams;
mod grpc;
mod http;
#[path = "../kernel/netns.rs"]
#[expect(dead_code, reason = "what the tests of the kernel's side need besides")]
mod netns;
mod rate;
mod script;
mod servers;
mod tcp;
mod tls;

use std::time::Duration;

use control::health::{Failure, Job, NoLine, probe};
use control::rules::Rules;

/// What the first check of a backend at 127.0.0.1:80 says, whose service has these lines in `[service.health]`.
async fn check(health: &str) -> Result<(), Failure> {
    probe(&job(health)).await
}

/// What was wrong.
async fn fault(health: &str) -> String {
    match check(health).await {
        Err(Failure::OfBackend(why)) => why,
        other => panic!("the check must fail by the backend's fault: {other:?}"),
    }
}

fn job(health: &str) -> Job {
    job_of("", health)
}

/// The same of a service that has these lines, too.
fn job_of(service: &str, health: &str) -> Job {
    let text = format!(
        "[[port]]\nname = \"p\"\ndevice = \"tap:xd0\"\nkernel = true\nlocal_addresses = [\"192.0.2.64/28\"]\n\
         [[service]]\nname = \"web\"\nlisten = \"tcp 203.0.113.10:80\"\nmode = \"fullnat\"\n{service}\n\
         backend = [{{ address = \"192.0.2.11\" }}]\n[service.health]\n{health}\n"
    );
    let rules = Rules::parse("test", &text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()));
    let mut job = control::health::jobs(&rules, &NoLine).into_values().next().expect("a job");
    // Rules have no loopback addresses.
    job.target.set_ip([127, 0, 0, 1].into());
    job.asked_for = job.target;
    job
}

/// Longer than any check takes that a test lets end by itself.
const LONG: Duration = Duration::from_secs(30);
