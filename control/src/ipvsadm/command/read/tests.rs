//! ipvsadm's own command lines, and what it says about others.

use super::*;

fn read(line: &str) -> Result<Command> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Command::read(&words, &Names::of_services("http 80/tcp\ndomain 53/udp\n"))
}

fn web() -> VirtualService {
    VirtualService::Address { protocol: Protocol::Tcp, address: IpAddr::from([10, 0, 0, 100]), l4_port: 80 }
}

fn says(line: &str, message: &str) {
    assert_eq!(read(line).unwrap_err().to_string(), message, "{line}");
}

#[test]
fn short_and_long_and_joined_options_are_the_same() {
    let same = [
        "-A -t 10.0.0.100:80 -s sh -b sh-port,sh-fallback -p 300 -M 255.255.255.0",
        "--add-service --tcp-service 10.0.0.100:http --scheduler sh --sched-flags flag-1,flag-2 --persistent 300 --netmask 255.255.255.0",
        "-At10.0.0.100:80 -ssh -bsh-port,sh-fallback -p300 -M=255.255.255.0",
        "--persistent=300 --tcp-service=10.0.0.100:80 --add-service --netmask=255.255.255.0 -s sh -b sh-fallback,sh-port",
    ];
    let options = ServiceOptions {
        scheduler: "sh".into(),
        flags: SchedulerFlags { fallback: true, l4_port: true, third: false },
        persistence: Some(Persistence { timeout_s: 300, prefix_len: Some(24) }),
        persistence_engine: None,
        one_packet: false,
    };
    for line in same {
        assert_eq!(read(line), Ok(Command::AddService(web(), options.clone())), "{line}");
    }
}

#[test]
fn what_is_not_said_is_ipvsadms_default() {
    let Ok(Command::AddService(_, options)) = read("-A -t 10.0.0.100:80 -p") else { panic!() };
    assert_eq!(options.scheduler, "wlc");
    assert_eq!(options.persistence, Some(Persistence { timeout_s: 360, prefix_len: None }));
    let server = SocketAddr::from(([192, 168, 10, 11], 80));
    let options = ServerOptions {
        forwarding: Forwarding::Gatewaying,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let line = "-a -t 10.0.0.100:80 -r 192.168.10.11";
    assert_eq!(read(line), Ok(Command::AddServer(web(), server, options)));
    assert_eq!(read(""), Ok(Command::List(List::default())));
}

#[test]
fn tunnels() {
    let tunnel = |options: &str| match read(&format!("-a -t 10.0.0.100:80 -r 192.168.10.11 -i {options}")) {
        Ok(Command::AddServer(_, _, ServerOptions { forwarding: Forwarding::Tunnel(tunnel), .. })) => tunnel,
        other => panic!("{options}: {other:?}"),
    };
    assert_eq!(tunnel(""), Tunnel::Ipip);
    assert_eq!(tunnel("--tun-type gre --tun-csum"), Tunnel::Gre { checksum: Checksum::Yes });
    let gue = Tunnel::Gue { l4_port: 6080, checksum: Checksum::Remote };
    assert_eq!(tunnel("--tun-type gue --tun-port 6080 --tun-remcsum"), gue);
}

#[test]
fn ipv6_stands_in_brackets() {
    let address = "2001:db8::100".parse().unwrap();
    let service = VirtualService::Address { protocol: Protocol::Udp, address, l4_port: 53 };
    assert_eq!(read("-D -u [2001:db8::100]:domain"), Ok(Command::DeleteService(service)));
    let mark = VirtualService::Mark { mark: 6, is_ipv6: true };
    let server = "[2001:db8:10::b]:0".parse().unwrap();
    assert_eq!(read("-d -f 6 -6 -r [2001:db8:10::b]:0"), Ok(Command::DeleteServer(mark, server)));
}

#[test]
fn the_other_commands() {
    assert_eq!(read("-C"), Ok(Command::Clear));
    assert_eq!(read("-R"), Ok(Command::Restore));
    assert_eq!(read("-Sn"), Ok(Command::Save { numeric: true }));
    assert_eq!(read("-Z"), Ok(Command::Zero(None)));
    assert_eq!(read("-Z -t 10.0.0.100:80"), Ok(Command::Zero(Some(web()))));
    assert_eq!(read("-h"), Ok(Command::Help));
    let list = List { what: Listing::Statistics, numeric: true, exact: true, ..List::default() };
    assert_eq!(read("-Ln --stats --exact --sort"), Ok(Command::List(list)));
    let list =
        List { what: Listing::Connections, numeric: true, persistent_connections: true, ..List::default() };
    assert_eq!(read("-lnc --persistent-conn"), Ok(Command::List(list)));
    let timeouts = Timeouts { tcp_s: 7200, tcp_fin_s: 0, udp_s: 60 };
    assert_eq!(read("--set 7200 0 60"), Ok(Command::SetTimeouts(timeouts)));
    let settings = vec![("syncid", "5".to_owned()), ("mcast-interface", "eth0".to_owned())];
    let daemon = Daemon { state: DaemonState::Master, settings };
    assert_eq!(
        read("--start-daemon master --mcast-interface eth0 --syncid 5"),
        Ok(Command::StartDaemon(daemon))
    );
    assert_eq!(read("--stop-daemon backup"), Ok(Command::StopDaemon(DaemonState::Backup)));
}

#[test]
fn errors_say_what_to_do() {
    says("-A", "you need to supply the 'service-address' option for the 'add-service' command");
    says("-a -t 10.0.0.100:80", "you need to supply the 'real-server' option for the 'add-server' command");
    says(
        "-A -t 10.0.0.100:80 -r 1.2.3.4",
        "illegal 'real-server' option with 'add-service'; leave `--real-server` out",
    );
    says(
        "-A -t 10.0.0.100:80 -s rr -b sh-port",
        "incompatible scheduler flag `sh-port' with rr; sh-... go with sh, mh-... with mh",
    );
    says(
        "-A -t 10.0.0.100:nosuch",
        "illegal 'tcp-service' value \"10.0.0.100:nosuch\"; allowed: a port of 0 to 65535, or a name that is in /etc/services",
    );
    says("--ad-service", "--ad-service: unknown option; did you mean `--add-service`?");
    says("-A -D", "two commands, `--add-service` and `--delete-service`; a line has one");
    says("-A -t 10.0.0.100:80 -s", "option `--scheduler` needs a value behind it");
    says("-n", "no command: one of -A -E -D -a -e -d -L -S -R -C -Z is needed");
    says("-C now", "unexpected argument now; it belongs to no option");
    says(
        "-A -t 10.0.0.100:80 -p 9 -M 255.0.255.0",
        "illegal 'netmask' value \"255.0.255.0\"; allowed: a netmask without gaps, such as 255.255.255.0",
    );
    says(
        "-a -t 10.0.0.100:80 -r 1.2.3.4 -x 5 -y 9",
        "illegal 'l-threshold' value \"9\"; allowed: at most the upper threshold",
    );
    says(
        "-a -t 10.0.0.100:80 -r 1.2.3.4 -w -1",
        "illegal 'weight' value \"-1\"; allowed: a number of 0 and more",
    );
}

#[test]
fn no_words_panic() {
    let letters = "-AEDaedLlSRCZtufsp=:[]é0";
    let mut words = Vec::new();
    for (index, _) in letters.char_indices() {
        words.push(letters[index..].to_owned());
        for tail in words.windows(2) {
            let _: Result<Command> = Command::read(tail, &Names::default());
        }
    }
}
