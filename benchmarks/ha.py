"""Measures three leaders that share a log in three members of etcd, beside one leader alone and beside bare appends.

Everything runs on the same cores. A leader alone, and the three, run in pairs, one right after the other, and take
turns in being first. The ratios within the pairs are what counts.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import failover
from leaders import NAMES, Leaders, etcd_cpu_seconds, etcd_running
from processes import Cluster, Processes, metric
from raw import Disk
from raw_log import RawLog
from report import Bench, Measure
from sequential import SAMPLES, asynchronous, p50

_HANDLER = "bench.thread"
#: The number of tasks that run before the measurement, so that connections are open and credit has grown.
_WARM_UP = 2_000
#: How many of the newest entries are appended again without gowork.
_RAW_ENTRIES = 100
#: What is asked, as ratios to one leader alone in the same pair: of processor time a task, and of tasks a second.
LEADER_CPU_MAX = 1.2
FOLLOWER_CPU_MAX = 0.5
RATE_MIN = 0.4
#: The p50 of submit → result divided by that of two bare appends and two bare calls.
LATENCY_MAX = 2.0


@dataclass(frozen=True)
class Turn:
    """What was measured of one leader alone, or of three."""

    #: Tasks a second.
    rate: float
    #: Batches that were made durable.
    commits: float
    #: {process, or kind of process: µs of processor time for a task}
    micros: dict[str, float]
    #: Submit → result, and two calls with two forced writes or two appends, both p50 in milliseconds.
    result_ms: float
    raw_ms: float
    #: Tasks a second, if there were nothing but the same entries appended one after the other; 0 for one leader alone.
    raw_rate: float = 0.0


def run(bench: Bench) -> list[Measure]:
    if bench.pending is not None:
        return failover.run(bench)
    shown = bench.progress.add_task("ha", total=2 * bench.rounds)
    alone: list[Turn] = []
    several: list[Turn] = []
    for number in range(bench.rounds):
        turns = [(alone, _alone), (several, _several)]
        for taken, measure in turns if number % 2 else turns[::-1]:
            taken.append(measure(bench))
            bench.progress.advance(shown)
    scenario = f"ha: {bench.tasks:,} no-op tasks of 50 bytes, 3 leaders and 3 members of etcd, in pairs with one leader"
    return compared(scenario, alone, several)


def compared(scenario: str, alone: Sequence[Turn], several: Sequence[Turn]) -> list[Measure]:
    """The measures of both, and what is asked of their ratios."""

    def each(of: Callable[[Turn], float], turns: Sequence[Turn]) -> list[float]:
        return [of(turn) for turn in turns]

    def ratios(of: Callable[[Turn], float], base: Callable[[Turn], float]) -> list[float]:
        return [of(three) / base(one) for one, three in zip(alone, several, strict=True)]

    def leader(turn: Turn) -> float:
        return turn.micros["leader"]

    def follower(turn: Turn) -> float:
        return turn.micros["follower"]

    measures = [
        Measure(scenario, "leader alone", "tasks/s", each(lambda turn: turn.rate, alone)),
        Measure(scenario, "3 leaders", "tasks/s", each(lambda turn: turn.rate, several)),
        Measure(
            scenario, "the same entries, appended", "tasks/s", each(lambda turn: turn.raw_rate, several), raw=True
        ),
        Measure(
            scenario, "3 leaders: of leader alone", "ratio", ratios(lambda t: t.rate, lambda t: t.rate), RATE_MIN
        ),
        Measure(scenario, "leader alone: commits", "commits", each(lambda turn: turn.commits, alone)),
        Measure(scenario, "3 leaders: commits", "commits", each(lambda turn: turn.commits, several)),
        Measure(scenario, "leader alone: CPU", "µs/task", each(leader, alone)),
        Measure(scenario, "leader that leads: CPU", "µs/task", each(leader, several)),
        Measure(
            scenario, "leader that leads: of leader alone", "ratio", ratios(leader, leader), LEADER_CPU_MAX, "at most"
        ),
        Measure(scenario, "leader that follows: CPU", "µs/task", each(follower, several)),
        Measure(
            scenario, "leader that follows: of leader alone", "ratio", ratios(follower, leader), FOLLOWER_CPU_MAX,
            "at most",
        ),
        Measure(scenario, "each member of etcd: CPU", "µs/task", each(lambda turn: turn.micros["etcd"], several)),
        Measure(scenario, "client, worker and runners: CPU, alone", "µs/task", each(_others, alone)),
        Measure(scenario, "client, worker and runners: CPU, 3 leaders", "µs/task", each(_others, several)),
    ]  # fmt: skip
    what = f"submit → result, one at a time, {SAMPLES} samples"
    times = each(lambda turn: turn.result_ms / turn.raw_ms, several)
    return [
        *measures,
        Measure(scenario, f"{what}: leader alone, p50", "ms", each(lambda turn: turn.result_ms, alone)),
        Measure(scenario, "2 fdatasync + 2 calls, p50", "ms", each(lambda turn: turn.raw_ms, alone), raw=True),
        Measure(scenario, f"{what}: 3 leaders, p50", "ms", each(lambda turn: turn.result_ms, several)),
        Measure(scenario, "2 appends + 2 calls, p50", "ms", each(lambda turn: turn.raw_ms, several), raw=True),
        Measure(scenario, "3 leaders: p50 / raw p50", "times", times, LATENCY_MAX, "at most"),
    ]


def _others(turn: Turn) -> float:
    return sum(micros for name, micros in turn.micros.items() if name not in ("leader", "follower", "etcd"))


def _alone(bench: Bench) -> Turn:
    with Processes(bench.directory) as processes, Disk(bench.directory) as disk:
        cluster = Cluster(processes)
        rate, commits, micros = _throughput(bench, processes, cluster, cluster.cpu_seconds)
        samples = asyncio.run(asynchronous(cluster, processes.start("echo", "raw.py"), disk))
    return Turn(rate, commits, micros, p50(samples["result"]), p50(samples["raw"]))


def _several(bench: Bench) -> Turn:
    with Processes(bench.directory) as processes, etcd_running(processes.folder) as etcd:
        url = etcd.url("bench")
        cluster = Cluster(processes, leader=("-m", "gowork.leader", "--log", url, "--name", NAMES[0]))
        followers = Leaders(processes, url)
        for name in NAMES[1:]:
            followers.start(name)
        followers.wait_ready()

        def cpu_seconds() -> dict[str, float]:
            # What has not been applied yet was not paid for yet.
            followers.wait_applied(metric(cluster.addresses["http"], "gowork_log_applied_index"))
            of_followers = statistics.mean(followers.cpu_seconds().values())
            of_etcd = etcd_cpu_seconds(etcd) / len(etcd.members)
            return {**cluster.cpu_seconds(), "follower": of_followers, "etcd": of_etcd}

        rate, commits, micros = _throughput(bench, processes, cluster, cpu_seconds)
        with RawLog(etcd.members[0].address, "bench") as raw_log:
            raw_rate = bench.tasks / (commits * raw_log.seconds_each(raw_log.newest(_RAW_ENTRIES)))
            samples = asyncio.run(asynchronous(cluster, processes.start("echo", "raw.py"), raw_log))
    return Turn(rate, commits, micros, p50(samples["result"]), p50(samples["raw"]), raw_rate)


def _throughput(
    bench: Bench, processes: Processes, cluster: Cluster, cpu_seconds: Callable[[], dict[str, float]]
) -> tuple[float, float, dict[str, float]]:
    """Returns tasks a second, commits, and the processor time of a task by process."""
    address = cluster.addresses["scheduler"]
    processes.start("warm-up", "producer.py", address, _HANDLER, "0", str(_WARM_UP))
    commits, before = cluster.commits(), cpu_seconds()
    took = processes.start("producer", "producer.py", address, _HANDLER, "0", str(bench.tasks))
    micros = {name: (seconds - before[name]) / bench.tasks * 1e6 for name, seconds in cpu_seconds().items()}
    micros["client"] = took["cpu_seconds"] / bench.tasks * 1e6
    return bench.tasks / took["seconds"], cluster.commits() - commits, micros
