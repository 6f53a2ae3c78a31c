"""The two programs that scripts/bench compares: how each is started, read, checked and stopped."""

import json
import os
import re
import select
import subprocess
import time
from dataclasses import dataclass

# How long a program may take to start, to answer and to end. Generous: machines are slow and shared.
PATIENCE_SECONDS = 30
BACKENDS = 10


class BenchError(Exception):
    """A run that gives no figure, and why."""


@dataclass
class Reading:
    """What a program had done at one moment."""

    packets: int
    # The program's own clock.
    seconds: float
    # Ours, and the processor time of all the program's threads. Only its worker is ever busy.
    wall_seconds: float
    processor_seconds: float
    # Whatever the program said beside.
    counts: dict


class Program:
    """A child that ends with the `with` statement, and with us however we end."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.errors = directory / f"{name}.err"
        self.child = None

    def start(self, command, **pipes):
        with open(self.errors, "wb") as errors:
            # A session of its own: Ctrl-C is for us, who then end it.
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command], stderr=errors, start_new_session=True, **pipes
            )

    def __exit__(self, *_):
        # The pipes' ends close with the Popen object; nothing of what is still in them matters.
        self.child.terminate()
        try:
            self.child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def times(self):
        """Wall clock and the child's processor time. The clock id of another process is CPUCLOCK_SCHED of its pid,
        as clock_getcpuclockid(3) makes it (linux/posix-timers.h), exact to the moment."""
        return time.monotonic(), time.clock_gettime((~self.child.pid << 3) | 2)

    def fail(self, what):
        tail = "\n".join(self.errors.read_text(errors="replace").splitlines()[-20:])
        raise BenchError(f"{self.name}: {what}\n{tail}".rstrip())

    def expect_alive(self):
        status = self.child.poll()
        if status is not None:
            self.fail(f"ended with status {status}")


class Macswap(Program):
    """dpdk-testpmd, asked at its prompt."""

    MBUFS = 131_071
    BURST = 32
    # Crossdock's, so that both work alike: launch.rs CACHE_SIZE, ports.rs DESCRIPTORS.
    CACHE = 256
    DESCRIPTORS = 512
    COUNT = re.compile(r"(RX-packets|RX-missed|RX-errors|RX-nombuf|TX-packets|TX-errors|Rx-pps): +(\d+)")
    # What `show port stats` ends with; it begins with fewer of them.
    END = "#" * 76

    def __init__(self, capture, cores, directory):
        super().__init__("testpmd", directory)
        self.capture, self.cores = capture, cores
        self.unread = ""

    def __enter__(self):
        eal = ["-l", f"{self.cores.control},{self.cores.worker}", "--main-lcore", str(self.cores.control)]
        eal += ["--no-pci", "--in-memory", "--no-telemetry"]
        eal += ["--vdev", f"net_pcap0,rx_pcap={self.capture},infinite_rx=1"]
        own = ["--interactive", "--auto-start", "--forward-mode=macswap", f"--burst={self.BURST}", "--nb-cores=1"]
        own += ["--rxq=1", "--txq=1", f"--rxd={self.DESCRIPTORS}", f"--txd={self.DESCRIPTORS}"]
        own += [f"--total-num-mbufs={self.MBUFS}", f"--mbcache={self.CACHE}"]
        # Its output is a pipe, which printf would fill in blocks of 4 KiB.
        command = ["stdbuf", "-oL", "dpdk-testpmd", *eal, "--", *own]
        # DPDK makes a directory even with --in-memory, in /run/dpdk unless told otherwise, and leaves it.
        environment = os.environ | {"RUNTIME_DIRECTORY": str(self.directory)}
        self.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        return self

    def wait_until_warm(self):
        self.reading()

    def reading(self):
        """`Rx-pps` is of the time since the last reading, by testpmd's own clock: packets over that are its seconds."""
        counts = self._show_port_stats()
        wall, processor = self.times()
        before = getattr(self, "last", None)
        seconds = 0.0
        if before is not None and counts["Rx-pps"] > 0:
            seconds = before.seconds + (counts["RX-packets"] - before.packets) / counts["Rx-pps"]
        self.last = Reading(counts["RX-packets"], seconds, wall, processor, counts)
        return self.last

    def _show_port_stats(self):
        self.expect_alive()
        self.child.stdin.write(b"show port stats 0\n")
        self.child.stdin.flush()
        return {name: int(value) for name, value in self.COUNT.findall(self._read_through(self.END))}

    def _read_through(self, mark):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while mark not in self.unread:
            if not select.select([self.child.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                self.fail(f"no answer within {PATIENCE_SECONDS} s")
            piece = os.read(self.child.stdout.fileno(), 65_536).decode(errors="replace")
            if not piece:
                self.child.wait(PATIENCE_SECONDS)
                self.expect_alive()
            self.unread += piece
        found, _, self.unread = self.unread.partition(mark)
        return found

    def check(self, _first, last):
        for name in ("RX-missed", "RX-errors", "RX-nombuf", "TX-errors"):
            if last.counts.get(name) != 0:
                self.fail(f"{name} is {last.counts.get(name)}, so this run says nothing")


class Crossdock(Program):
    """crossdock run, asked over its socket."""

    def __init__(self, binary, capture, cores, directory, service):
        super().__init__("crossdock", directory)
        self.binary, self.capture, self.cores = binary, capture, cores
        self.vip, self.vip_port, self.mode, self.flow_count = service
        self.socket = directory / "crossdock.sock"
        self.rules = directory / "rules.toml"

    def __enter__(self):
        self.rules.write_text(self._rules(), encoding="utf-8")
        # Without our own affinity: the worker's core is not in it.
        cores = f"{self.cores.control},{self.cores.worker}"
        command = ["taskset", "--cpu-list", cores, self.binary, "run", "-c", str(self.rules), "--summary", "json"]
        self.start(command, stdout=subprocess.DEVNULL)
        return self

    def _rules(self):
        # A /28 has 16 addresses with 64,512 l4_ports each for every backend: many more than there are flows.
        local = 'local_addresses = ["198.51.100.64/28"]' if self.mode == "fullnat" else ""
        lines = [
            "[dataplane]",
            f"workers = [{self.cores.worker}]",
            'memory = "huge"',
            "[control]",
            f'socket = "{self.socket}"',
            "[[port]]",
            'name = "wire"',
            f'device = "net_pcap0,rx_pcap={self.capture},infinite_rx=1"',
            local,
            "[[service]]",
            'name = "dns"',
            f'listen = "udp {self.vip}:{self.vip_port}"',
            f'mode = "{self.mode}"',
            'scheduler = "rr"',
        ]
        for number in range(1, BACKENDS + 1):
            lines += ["[[service.backend]]", f'address = "198.51.100.{number}:{self.vip_port}"']
        for number in range(1, BACKENDS + 1):
            lines += ["[[neighbour]]", f'address = "198.51.100.{number}"', 'port = "wire"']
            lines += [f'mac = "02:00:00:00:01:{number:02x}"']
        return "\n".join(lines) + "\n"

    def wait_until_warm(self):
        """Until every flow of the capture is known."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        opened = None
        while opened != self.flow_count:
            self.expect_alive()
            if time.monotonic() > deadline:
                self.fail(f"{opened} of {self.flow_count} flows after {PATIENCE_SECONDS} s")
            time.sleep(0.05)
            status = self._status()
            opened = status and status["flows"]["opened"]

    def reading(self):
        status = self._status()
        wall, processor = self.times()
        if status is None:
            self.fail("no status")
        packets = status["ports"][0]["rx_packets"]
        return Reading(packets, status["seconds"], wall, processor, status)

    def _status(self):
        command = [self.binary, "status", "--socket", str(self.socket), "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def check(self, first, last):
        """Between the readings every packet was of a known flow and left: else the figure would be of something else.
        Before, all sorts of things may happen: a worker has no rules at first."""
        before, after = first.counts, last.counts
        wrong = grown(before["drops"], after["drops"])
        wrong |= grown(before["flows"], after["flows"], "opened", "expired", "evicted")
        wrong |= grown(before["packets"], after["packets"], "punted", "dropped", "steered", "from_slow_path")
        if wrong:
            self.fail(f"{self.mode}, {self.flow_count} flows, while it was measured: {wrong}; so this run says nothing")


def grown(before, after, *names):
    """Counts that are not what they were, of `names` or of all."""
    return {name: after[name] - before[name] for name in names or after if after[name] != before[name]}
