//! What a check costs control's core: tasks, timers, sockets and the board, against connections by themselves, in CPU time of one thread
//! that runs both in turn. It prints how many checks a second a core does; what is asserted is the ratio.

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use control::health::{Health, NoLine};
use control::rules::Rules;
use control::rules::build::BackendKey;
use nix::time::{ClockId, clock_gettime};
use tokio::net::TcpSocket;
use tokio::time::sleep;

use crate::netns::NetNs;

const BACKENDS: u64 = 1_000;
/// In a tenth of a second each, so that 10,000 checks a second are asked for.
const CHECKS: u64 = 20_000;

/// Of this thread, the kernel's work for it included.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread's clock").into()
}

/// Accepts whatever comes at `port`, on a thread of its own, until the test ends.
fn accept_all(namespace: &NetNs, port: u16) {
    namespace.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener: TcpListener = runtime.block_on(async {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from(([0, 0, 0, 0], port))).expect("the port");
            socket.listen(4_096).expect("listening").into_std().expect("a listener")
        });
        listener.set_nonblocking(false).expect("blocking");
        thread::spawn(move || listener.incoming().for_each(drop));
    });
}

fn rules() -> Rules {
    let mut text = String::from(
        "[[port]]\nname = \"p\"\ndevice = \"tap:xd0\"\nkernel = true\nlocal_addresses = [\"192.0.2.64/28\"]\n\
         [[service]]\nname = \"web\"\nlisten = \"tcp 203.0.113.10:80\"\nmode = \"fullnat\"\n\
         health = { check = \"tcp\", interval = \"100ms\" }\n",
    );
    for number in 0..BACKENDS {
        writeln!(text, "[[service.backend]]\naddress = \"10.9.{}.{}\"", number / 250, number % 250 + 1)
            .expect("a string");
    }
    Rules::parse("test", &text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()))
}

/// CPU time a check, while all of them are checked as the rules say.
async fn checks(rules: &Rules) -> Duration {
    let service = &rules.services[0];
    let keys: Vec<_> = service
        .backends
        .iter()
        .map(|backend| BackendKey::new(service.key().expect("a key"), backend.endpoint))
        .collect();
    let mut health = Health::default();
    let (began, before) = (Instant::now(), cpu_time());
    health.follow(rules, &NoLine);
    let done = |health: &Health| {
        let rows = keys.iter().filter_map(|key| health.board().report(key, Instant::now()));
        rows.fold((0, 0, u64::MAX), |(sum, not_done, least), row| {
            (sum + row.checks, not_done + row.not_done, least.min(row.checks))
        })
    };
    let (sum, least) = loop {
        let (sum, not_done, least) = done(&health);
        assert_eq!(not_done, 0, "this host does what is asked of it");
        if sum >= CHECKS {
            break (sum, least);
        }
        sleep(Duration::from_millis(50)).await;
    };
    let spent = cpu_time() - before;
    println!(
        "{sum} checks in {:?}, {spent:?} of CPU time; the backend checked least: {least}",
        began.elapsed()
    );
    assert!(least > 0, "nobody is left out");
    spent / u32::try_from(sum).expect("few")
}

/// CPU time a connection, made and reset.
fn connections() -> Duration {
    let before = cpu_time();
    for number in 0..CHECKS {
        let [.., high, low] = (number % 50_000 + 1).to_be_bytes();
        let stream =
            TcpStream::connect(SocketAddr::from(([10, 8, high, low.max(1)], 80))).expect("a connection");
        nix::sys::socket::setsockopt(
            &stream,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger { l_onoff: 1, l_linger: 0 },
        )
        .expect("SO_LINGER");
    }
    (cpu_time() - before) / u32::try_from(CHECKS).expect("few")
}

#[test]
fn a_check_costs_little_more_than_its_connection() {
    let namespace = NetNs::new();
    namespace.run("ip route add local 10.8.0.0/15 dev lo");
    accept_all(&namespace, 80);
    let rules = rules();
    namespace.block_on(async || {
        let bare = connections();
        let whole = checks(&rules).await;
        println!(
            "a connection {bare:?}, a check {whole:?}: {} checks a second a core",
            1_000_000_000 / whole.as_nanos().max(1)
        );
        assert!(whole < bare * 4, "{whole:?} a check, {bare:?} a connection");
    });
}
