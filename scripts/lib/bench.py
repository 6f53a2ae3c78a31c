"""Crossdock and testpmd's macswap on the same endless captures, in turns. Started by scripts/bench, which has installed and
built what is needed; its --help says what is measured. Statistics and output are here; the two programs in bench_programs.py.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import flows
from bench_programs import BenchError, Crossdock, Macswap

MODES = ["dr", "fullnat"]
FLOW_COUNTS = [4_096, 65_536]
# The same for both flow counts, so that the capture itself takes the same room in the caches.
PACKETS_IN_FILE = 65_536
VIP, VIP_PORT = "203.0.113.10", 53
WARM_UP_SECONDS = 0.5
DIRECTION = "client to backend only: answers, which FullNAT rewrites too, are not in the capture"
# What a figure is.
UNIT = "Mpps"
UNIT_MEANS = "million packets per second of the program's own processor time"

HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
# 131,071 mbufs of 2.5 KB, 48 MiB for DPDK, 80 MB for Crossdock's flow table, a fifth to spare; in pages of 2 MiB.
HUGE_PAGES_NEEDED = 300


class HugePages:
    """Huge pages for one program at a time: what is missing is reserved, and given back at the end."""

    def __init__(self):
        self.taken = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.taken > 0:
            # Less what is ours, not what there was before: others may have taken some meanwhile.
            self._write(max(self._read("nr") - self.taken, 0))

    def ensure(self):
        """Reserves until enough are free."""
        free = self._read("free")
        if free >= HUGE_PAGES_NEEDED:
            return
        before = self._read("nr")
        wanted = before + HUGE_PAGES_NEEDED - free
        try:
            self._write(wanted)
        except OSError as error:
            raise BenchError(
                f"{HUGE_PAGES_NEEDED} huge pages of 2 MiB are needed, {free} are free, and more may not be reserved "
                f"({error.strerror}): run as root, or have root run: sysctl vm.nr_hugepages={wanted}"
            ) from error
        self.taken += max(self._read("nr") - before, 0)
        if self._read("free") < HUGE_PAGES_NEEDED:
            raise BenchError(
                f"{HUGE_PAGES_NEEDED} huge pages of 2 MiB are needed and the kernel finds room for {self._read('free')}: "
                "its memory is in use or in pieces"
            )

    @staticmethod
    def _read(name):
        return int((HUGE_PAGES / f"{name}_hugepages").read_text())

    @staticmethod
    def _write(count):
        (HUGE_PAGES / "nr_hugepages").write_text(str(count))


def measure(program, seconds):
    """One run: packets over the time between two readings in steady state."""
    with program:
        program.wait_until_warm()
        time.sleep(WARM_UP_SECONDS)
        first = program.reading()
        time.sleep(seconds)
        last = program.reading()
        program.check(first, last)
    return figure(first, last)


def figure(first, last):
    """The run's figure. Packets and seconds are the program's own; which share of its core it got, we see from outside."""
    packets = last.packets - first.packets
    seconds = last.seconds - first.seconds
    share = (last.processor_seconds - first.processor_seconds) / (last.wall_seconds - first.wall_seconds)
    if packets <= 0 or seconds <= 0 or share <= 0:
        raise BenchError(f"{packets} packets in {seconds:.3f} s on {share:.0%} of a core: nothing was measured")
    elapsed = packets / seconds / 1e6
    return {
        "mpps": round(elapsed / share, 3),
        "mpps_elapsed": round(elapsed, 3),
        "core_share": round(share, 4),
        "packets": packets,
        "seconds": round(seconds, 6),
    }


def take_turns(arguments, cores, directory, pages):
    """All runs, by mode and flow count: [{"crossdock": figure, "peer": figure}, ...]."""
    captures = {count: write_capture(directory, count) for count in FLOW_COUNTS}
    runs = {(mode, count): [] for count in FLOW_COUNTS for mode in MODES}
    for number in range(arguments.runs):
        for count, capture in captures.items():
            pages.ensure()
            peer = measure(Macswap(capture, cores, directory), arguments.seconds)
            show_progress(arguments, number, count, "macswap", peer)
            for mode in MODES:
                pages.ensure()
                service = (VIP, VIP_PORT, mode, count)
                own = measure(Crossdock(arguments.binary, capture, cores, directory, service), arguments.seconds)
                show_progress(arguments, number, count, mode, own)
                ratio = round(own["mpps"] / peer["mpps"], 4)
                runs[mode, count].append({"crossdock": own, "peer": peer, "ratio": ratio})
    return runs


def write_capture(directory, flow_count):
    path = directory / f"{flow_count}-flows.pcap"
    vip = bytes(int(part) for part in VIP.split("."))
    flows.write(path, flow_count, PACKETS_IN_FILE, vip, VIP_PORT)
    return path


def show_progress(arguments, number, flow_count, name, one):
    print(
        f"  run {number + 1}/{arguments.runs}, {flow_count:>6,} flows, {name:<8} {one['mpps']:7.2f} Mpps "
        f"on {one['core_share']:4.0%} of its core",
        file=sys.stderr,
        flush=True,
    )


def summarize(mode, flow_count, runs):
    """One row of the results."""
    own = statistics.median(run["crossdock"]["mpps"] for run in runs)
    peer = statistics.median(run["peer"]["mpps"] for run in runs)
    row = {
        "name": f"{mode} {flow_count} flows",
        "mode": mode,
        "flows": flow_count,
        "unit": UNIT,
        "crossdock": round(own, 3),
        "peer": round(peer, 3),
        "ratio": round(own / peer, 4),
        "ratio_of_pairs": round(statistics.median(run["ratio"] for run in runs), 4),
        "runs": runs,
    }
    return row | {"direction": DIRECTION} if mode == "fullnat" else row


def about(arguments, cores):
    """What the figures depend on."""
    model = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if "model name" in line]
    return {
        "unit": UNIT_MEANS,
        "peer": "dpdk-testpmd --forward-mode=macswap",
        "device": "net_pcap, infinite_rx=1, without tx_pcap: what is sent is counted and freed",
        "frame_bytes": flows.FRAME_BYTES,
        "packets_in_file": PACKETS_IN_FILE,
        "burst": Macswap.BURST,
        "mbufs": Macswap.MBUFS,
        "worker_core": cores.worker,
        "seconds_per_run": arguments.seconds,
        "fullnat": DIRECTION,
        "crossdock": output_of([arguments.binary, "--version"]),
        "commit": arguments.commit or None,
        "dpdk": output_of(["pkg-config", "--modversion", "libdpdk"]),
        "kernel": platform.release(),
        "cpu": model[0] if model else platform.machine(),
        "cores": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def output_of(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def print_table(rows):
    print(
        f"\n{UNIT}: {UNIT_MEANS}; 60-byte UDP, one worker, medians.\n"
        "Single absolute figures on shared machines mean little; the ratios, taken in turns, count.\n"
        f"FullNAT is measured one way: {DIRECTION}.\n"
    )
    print(f"{'mode':<8} {'flows':>7} {'crossdock':>10} {'macswap':>8} {'ratio':>6} {'of pairs':>9} {'min - max':>13} {'runs':>5}")
    for row in rows:
        ratios = [run["ratio"] for run in row["runs"]]
        spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        print(
            f"{row['mode']:<8} {row['flows']:>7,} {row['crossdock']:>10.2f} {row['peer']:>8.2f} {row['ratio']:>6.2f} "
            f"{row['ratio_of_pairs']:>9.2f} {spread:>13} {len(ratios):>5}"
        )
    shares = [run[program]["core_share"] for row in rows for run in row["runs"] for program in ("crossdock", "peer")]
    if min(shares) < 0.95:
        print(
            f"\nThe machine was busy: a worker got as little as {min(shares):.0%} of its core. Time without the core is "
            "taken out, but not what others left in the caches."
        )


def write_results(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    # All or nothing: a reader never sees half a file.
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
    print(f"\nevery single figure: {path}")


def parse_arguments():
    parser = argparse.ArgumentParser(description="Use scripts/bench.")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--runs", required=True, type=int)
    parser.add_argument("--seconds", required=True, type=int)
    parser.add_argument("--commit", default="")
    return parser.parse_args()


class Cores:
    """The last core we may use for the worker, the first for everything else."""

    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise BenchError("two cores are needed: one for the worker, one for control and for this script")
        self.control, self.worker = allowed[0], allowed[-1]


def end_in_order():
    """A signal unwinds the stack, so that programs end and pages go back; a second one is not heard."""
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]

    def end(number, _frame):
        for ignored in numbers:
            signal.signal(ignored, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, end)


def main():
    arguments = parse_arguments()
    end_in_order()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crossdock-bench-")))
        pages = stack.enter_context(HugePages())
        cores = Cores()
        # Away from the worker's core, with everything started from here except the workers themselves.
        os.sched_setaffinity(0, set(os.sched_getaffinity(0)) - {cores.worker})
        document = {"about": about(arguments, cores)}
        runs = take_turns(arguments, cores, directory, pages)
        document["results"] = [summarize(mode, count, runs[mode, count]) for mode in MODES for count in FLOW_COUNTS]
        print_table(document["results"])
        write_results(arguments.output, document)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
