//! `/metrics` as a real Prometheus sees it: scrapes it, loads the alerts, and answers every query of the dashboard. And the log
//! as JSON.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, rules};
use testbed::lab::{Lab, VIP, WebServers, top};
use testbed::process::{Process, until};

/// Where metrics are asked for, and where Prometheus listens: on the loopback of the director's own namespace.
const METRICS: &str = "127.0.0.1:9404";
const PROMETHEUS: &str = "127.0.0.1:9099";
const PATIENCE: Duration = Duration::from_secs(60);

/// Of the last service.
const CHECKS: &str = "\n[service.health]\ncheck = \"tcp\"\ninterval = \"1s\"\n";

fn with_metrics() -> String {
    // The lab's own `[control]` stands in front.
    format!("metrics = \"{METRICS}\"\n{}", rules("quickstart.toml"))
}

fn config(name: &str) -> std::path::PathBuf {
    top().join("configs").join(name).canonicalize().unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: apt-get install prometheus");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

fn scrape(lab: &Lab, accept: &str) -> String {
    let header = format!("accept: {accept}");
    lab.succeed("director", &["curl", "-sSf", "-i", "-H", &header, &format!("http://{METRICS}/metrics")])
}

#[test]
fn both_formats_are_served_and_promtool_has_nothing_to_say() {
    let lab = Lab::two_arms();
    lab.succeed("director", &["ip", "link", "set", "lo", "up"]);
    let director = Director::start(&lab, &with_metrics());
    let answer = scrape(&lab, "*/*");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(promtool(&["check", "metrics"], body), "", "promtool's own rules of naming");
    let answer = scrape(&lab, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    let socket = lab.directory().join("crossdock.sock");
    let by_socket =
        ["--unix-socket", &socket.display().to_string(), "http://crossdock/metrics"].map(str::to_owned);
    let argv: Vec<&str> = ["curl", "-sSf"].into_iter().chain(by_socket.iter().map(String::as_str)).collect();
    assert!(lab.succeed("director", &argv).contains("crossdock_build_info"));
    // Whoever reaches the address gets metrics and nothing else.
    let status = lab.run(
        "director",
        &["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{METRICS}/v1/status")],
    );
    assert_eq!(String::from_utf8_lossy(&status.stdout), "404");
    director.stop();
}

/// Prometheus in the director's namespace, with the alerts that are shipped.
fn prometheus(lab: &Lab) -> Process {
    let directory = lab.directory();
    let settings = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [\"{}\"]\n\
         scrape_configs:\n  - job_name: crossdock\n    static_configs: [{{ targets: [\"{METRICS}\"] }}]\n",
        config("prometheus-alerts.yml").display()
    );
    let path = directory.join("prometheus.yml").display().to_string();
    fs::write(&path, settings).expect("Prometheus's settings");
    promtool(&["check", "config", &path], "");
    let arguments = [
        "prometheus".to_owned(),
        format!("--config.file={path}"),
        format!("--storage.tsdb.path={}", directory.join("tsdb").display()),
        format!("--web.listen-address={PROMETHEUS}"),
    ];
    lab.start("director", "prometheus", &arguments.each_ref().map(String::as_str))
}

/// What Prometheus's API answers; nothing before it is up.
fn ask(lab: &Lab, path: &str, query: Option<&str>) -> Option<Value> {
    let url = format!("http://{PROMETHEUS}/api/v1/{path}");
    let query = query.map(|query| format!("query={query}"));
    let mut argv = vec!["curl", "-sS", "--get", &url];
    argv.extend(query.iter().flat_map(|query| ["--data-urlencode", query.as_str()]));
    let answer: Value = serde_json::from_slice(&lab.run("director", &argv).stdout).ok()?;
    assert_eq!(answer["status"], "success", "{query:?}: {answer}");
    Some(answer["data"].clone())
}

/// The value of a query with one answer.
fn value(lab: &Lab, query: &str) -> Option<f64> {
    ask(lab, "query", Some(query))?["result"][0]["value"][1].as_str()?.parse().ok()
}

/// Every query of the dashboard, for all directors and a minute.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(config("grafana-dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.map(|target| target["expr"].as_str().expect("a query"));
    queries.map(|query| query.replace("$instance", ".*").replace("$__rate_interval", "1m")).collect()
}

fn metric_names(query: &str) -> impl Iterator<Item = &str> {
    query
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("crossdock_"))
}

#[test]
fn a_prometheus_scrapes_answers_the_dashboard_and_raises_an_alert() {
    let lab = Lab::two_arms();
    lab.succeed("director", &["ip", "link", "set", "lo", "up"]);
    let _servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &(with_metrics() + CHECKS));
    let prometheus = prometheus(&lab);
    let is_scraped = || value(&lab, "up{job=\"crossdock\"}") == Some(1.0);
    assert!(until(PATIENCE, is_scraped), "{}", prometheus.stderr());
    for _ in 0..9 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    let connections =
        "crossdock_backend_connections_total{service=\"web\",backend=\"10.0.0.11:8080\",role=\"backend\"}";
    // A scrape may come between two of them: all are there when the service has nine.
    let are_counted = || value(&lab, "crossdock_service_connections_total") == Some(9.0);
    assert!(until(PATIENCE, are_counted), "{:?}", value(&lab, connections));
    assert_eq!(value(&lab, connections), Some(5.0));
    let all_are_up = || value(&lab, "crossdock_service_backends_up") == Some(3.0);
    assert!(until(PATIENCE, all_are_up), "{}", director.status());
    let are_checked = || value(&lab, "min(crossdock_backend_checks_total{result=\"passed\"})") >= Some(1.0);
    assert!(until(PATIENCE, are_checked), "{}", director.status());
    assert_eq!(value(&lab, "sum(crossdock_backend_healthy)"), Some(3.0));
    // In this order: what is asked later may be of a later scrape, and all three only grow.
    let longest = value(&lab, "crossdock_worker_longest_turn_seconds").expect("its longest turn");
    let busy = value(&lab, "crossdock_worker_busy_seconds_total").expect("how busy it was");
    let up = value(&lab, "crossdock_uptime_seconds").expect("since when");
    assert!(0.0 < longest && longest <= busy && busy <= up, "{longest} s of {busy} s of {up} s");
    let fill = value(&lab, "crossdock_worker_table_entries / crossdock_worker_table_capacity_entries");
    assert!(fill.is_some_and(|fill| fill > 0.0 && fill < 0.01), "{fill:?}");
    queries_are_answered(&lab);
    // A counter's first increase needs a value before it, and that was scraped above.
    let refused = director.refused_reload("[[service]]\nname = \"web\"\n");
    assert!(refused.contains("listen"), "{refused}");
    let fires = || {
        let alerts = ask(&lab, "alerts", None).unwrap_or_default();
        let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|alert| {
            alert["labels"]["alertname"] == "CrossdockReloadRefused" && alert["state"] == "firing"
        })
    };
    assert!(until(PATIENCE, fires), "{:?}", ask(&lab, "alerts", None));
    director.stop();
    let is_down = || {
        let pending = ask(&lab, "alerts", None).unwrap_or_default().to_string();
        pending.contains("CrossdockDown")
    };
    assert!(until(PATIENCE, is_down), "a director that has gone is noticed");
}

/// By name too: of a metric that does not exist Prometheus says nothing at all.
fn queries_are_answered(lab: &Lab) {
    let names = ask(lab, "label/__name__/values", None).expect("the names of metrics");
    let names: BTreeSet<&str> = names.as_array().expect("names").iter().filter_map(Value::as_str).collect();
    let groups = || ask(lab, "rules", None).unwrap_or_default()["groups"].clone();
    let is_evaluated = || {
        let rules = groups()[0]["rules"].as_array().cloned().unwrap_or_default();
        rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok")
    };
    assert!(until(PATIENCE, is_evaluated), "{}", groups());
    let alerts = groups()[0]["rules"].as_array().cloned().unwrap_or_default();
    let alerts = alerts.iter().map(|rule| rule["query"].as_str().expect("a query").to_owned());
    let queries = dashboard_queries();
    assert!(queries.len() > 20, "{queries:?}");
    for query in queries.into_iter().chain(alerts) {
        assert!(ask(lab, "query", Some(&query)).is_some(), "{query}");
        let unknown: Vec<&str> = metric_names(&query).filter(|name| !names.contains(name)).collect();
        assert!(unknown.is_empty(), "{query}: there is no {unknown:?}");
    }
}

#[test]
fn the_log_comes_as_json_when_it_is_asked_for() {
    let lab = Lab::two_arms();
    let path = lab.directory().join("rules.toml");
    let socket = lab.directory().join("json.sock");
    let text = format!(
        "[control]\nsocket = \"{}\"\n[dataplane]\nworkers = [0]\nidle = \"sleep\"\nmemory = \"plain\"\n[[port]]\nname = \"front\"\ndevice = \"ring\"\n",
        socket.display()
    );
    fs::write(&path, text).expect("the rules");
    let binary = testbed::director::binary().display().to_string();
    let path = path.display().to_string();
    let output =
        lab.run("director", &[&binary, "run", "-c", &path, "--duration", "100ms", "--log-format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    let ready = lines
        .iter()
        .find(|line| line["fields"]["message"].as_str().is_some_and(|text| text.starts_with("ready: ")));
    assert_eq!(ready.expect("it was ready")["level"], "INFO");
}
