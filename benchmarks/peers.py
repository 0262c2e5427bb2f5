"""Measures gowork beside other task systems, each durable, by one harness and in turns.

Each system has an adapter in adapters/, an environment of its own and, in each round, a fresh server and fresh workers.
In each round every system has one turn, and who is first rotates. A system that can't be measured is left out, with the
reason, and the others go on. docs/benchmarks.md says how each is set up, and what it acknowledges when.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from peer_adapter import ANSWER_SECONDS, Adapter, resident_mb
from peer_environments import LeftOutError, System, environment, kept_folder, peers
from peer_servers import Server, missing, running, version_of
from processes import StartError
from raw import syncs_per_second
from report import Bench, Measure, machine, number
from sequential import p50, p99

SCENARIO = "peers: no-op tasks of 50 bytes, each system with what it acknowledges forced to disk"
GOWORK = System("gowork", "gowork", "", "SQLite")
#: How many times as many tasks gowork should run in a second as the fastest other system.
TARGET_TIMES = 25.0
#: How long a burst should take about, in seconds; so it is given the number of tasks that fits.
BURST_SECONDS = 5.0
#: How long the burst takes at least from which that number is worked out, in seconds.
LOOK_SECONDS = 2.0
_FEWEST_TASKS = 50
#: How many single tasks are run in a turn at most, and how long they are begun, in seconds.
SAMPLES = 300
SINGLES_SECONDS = 5.0
#: The part of a burst that is run before it, so that connections are open and caches are warm.
_WARM_UP = 1 / 20


@dataclass(frozen=True)
class Turn:
    """What one system did in one round."""

    submitted_per_second: float
    completed_per_second: float
    p50_ms: float
    p99_ms: float
    #: Resident memory of workers and server, after the warm-up and at the end.
    idle_mb: float
    end_mb: float


@dataclass
class Entrant:
    """A system that is measured, with what that takes."""

    system: System
    python: Path
    tasks: int = 0


#: {system's name: its turns}
Turns = Mapping[str, Sequence[Turn]]


def run(bench: Bench) -> list[Measure]:
    """Measures gowork and every peer that this machine can run.

    Raises:
        StartError: gowork itself can't be measured.
    """
    systems = [GOWORK, *peers()]
    entrants = _entrants(bench, systems)
    shown = bench.progress.add_task("peers", total=bench.rounds * len(entrants))
    turns: dict[str, list[Turn]] = {entrant.system.name: [] for entrant in entrants}
    syncs = []
    for turn in range(bench.rounds):
        syncs.append(syncs_per_second(bench.directory))
        for entrant in rotated(entrants, turn):
            with _leaving_out(bench, entrant.system):
                turns[entrant.system.name].append(measured(bench.directory, entrant))
            bench.progress.advance(shown)
        entrants = _remaining(bench, entrants)
    whole = {entrant.system.name: turns[entrant.system.name] for entrant in entrants}
    bench.markdown = markdown(machine(bench.directory), _versions(entrants), entrants, whole)
    return [*compared(entrants, whole), Measure(SCENARIO, "fdatasync of 4 KiB", "1/s", syncs, raw=True)]


def _entrants(bench: Bench, systems: Sequence[System]) -> list[Entrant]:
    """The systems that can be measured, each with the number of tasks that fits its speed."""
    shown = bench.progress.add_task("peers: install and calibrate", total=len(systems))
    entrants = []
    for system in systems:
        with _leaving_out(bench, system):
            if reason := missing(system.server):
                raise LeftOutError(reason)
            entrant = Entrant(system, environment(system, kept_folder()))
            with _turn(bench.directory, entrant) as (adapter, _):
                entrant.tasks = calibrated(lambda tasks: adapter.burst(tasks).completed, bench.tasks)
            entrants.append(entrant)
        bench.progress.advance(shown)
    return _remaining(bench, entrants)


def _remaining(bench: Bench, entrants: Sequence[Entrant]) -> list[Entrant]:
    """Those that were not left out; without gowork there is nothing to compare."""
    if GOWORK.title in bench.left_out:
        raise StartError(f"gowork can't be measured: {bench.left_out[GOWORK.title]}")
    return [entrant for entrant in entrants if entrant.system.title not in bench.left_out]


@contextlib.contextmanager
def _leaving_out(bench: Bench, system: System) -> Iterator[None]:
    """Notes why this system is left out, and goes on."""
    try:
        yield
    except LeftOutError as error:
        bench.left_out[system.title] = str(error)


@contextlib.contextmanager
def _turn(directory: Path, entrant: Entrant) -> Iterator[tuple[Adapter, Server]]:
    """Yields a system's adapter, whose workers are ready, and its server; both are fresh, and end with the block."""
    system = entrant.system
    with tempfile.TemporaryDirectory(prefix="gowork-bench-", dir=directory, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # PostgreSQL runs as another user where the benchmarks run as root.
        folder.chmod(0o711)
        with running(system.server, folder) as server:
            variables = {"PEER_SERVER": server.address, "PEER_FOLDER": str(folder)}
            log = folder / "adapter.log"
            with Adapter(entrant.python, system.adapter, variables, log, ANSWER_SECONDS) as adapter:
                adapter.start()
                yield adapter, server


def measured(directory: Path, entrant: Entrant) -> Turn:
    """One turn of a system."""
    with _turn(directory, entrant) as (adapter, server):
        adapter.burst(max(1, round(entrant.tasks * _WARM_UP)))
        idle_mb = resident_mb([*adapter.started, *server.processes])
        burst = adapter.burst(entrant.tasks)
        ms = adapter.singles(SAMPLES, SINGLES_SECONDS)
        end_mb = resident_mb([*adapter.started, *server.processes])
    return Turn(entrant.tasks / burst.submitted, entrant.tasks / burst.completed, p50(ms), p99(ms), idle_mb, end_mb)


def calibrated(seconds_of: Callable[[int], float], tasks_max: int) -> int:
    """The number of tasks that take about BURST_SECONDS, at most `tasks_max`.

    Args:
        seconds_of: runs the given number of tasks, and returns how long that took, in seconds.
        tasks_max: an upper bound.
    """
    tasks = min(_FEWEST_TASKS, tasks_max)
    while (took := seconds_of(tasks)) < LOOK_SECONDS:
        if tasks == tasks_max:
            return tasks
        tasks = min(4 * tasks, tasks_max)
    fitting = tasks * BURST_SECONDS / took
    # Two digits are enough, and easier to read.
    return min(tasks_max, max(_FEWEST_TASKS, int(float(f"{fitting:.1e}"))))


def rotated(entrants: Sequence[Entrant], turn: int) -> list[Entrant]:
    """The same, with another one first in each round."""
    first = turn % len(entrants)
    return [*entrants[first:], *entrants[:first]]


def compared(entrants: Sequence[Entrant], turns: Turns) -> list[Measure]:
    """The measures of all, and how many times as many tasks gowork runs in a second as the fastest other."""
    measures = []
    if fastest := fastest_peer(turns):
        title = next(entrant.system.title for entrant in entrants if entrant.system.name == fastest)
        name = f"gowork / {title}, the fastest peer: end to end"
        measures.append(Measure(SCENARIO, name, "times", times(turns, fastest), TARGET_TIMES))
    for entrant in entrants:
        title, of = entrant.system.title, turns[entrant.system.name]
        measures += [
            Measure(SCENARIO, f"{title}: end to end", "tasks/s", [turn.completed_per_second for turn in of]),
            Measure(SCENARIO, f"{title}: submitted", "tasks/s", [turn.submitted_per_second for turn in of]),
            Measure(SCENARIO, f"{title}: submit → result, p50", "ms", [turn.p50_ms for turn in of]),
            Measure(SCENARIO, f"{title}: submit → result, p99", "ms", [turn.p99_ms for turn in of]),
            Measure(SCENARIO, f"{title}: resident, idle", "MB", [turn.idle_mb for turn in of]),
            Measure(SCENARIO, f"{title}: resident, at the end", "MB", [turn.end_mb for turn in of]),
            Measure(SCENARIO, f"{title}: a burst", "tasks", [entrant.tasks]),
        ]
    return measures


def fastest_peer(turns: Turns) -> str | None:
    """The name of the peer that runs most tasks a second in the median; None without peers."""
    names = [name for name in turns if name != GOWORK.name]
    return max(names, key=lambda name: p50([turn.completed_per_second for turn in turns[name]]), default=None)


def times(turns: Turns, name: str) -> list[float]:
    """How many times as many tasks gowork runs in a second as this system, in each round."""
    both = zip(turns[GOWORK.name], turns[name], strict=True)
    return [ours.completed_per_second / theirs.completed_per_second for ours, theirs in both]


def _versions(entrants: Sequence[Entrant]) -> dict[str, str]:
    """The versions that were measured, of gowork and of each server: {"gowork", "redis" or "postgresql": version}."""
    servers = {entrant.system.server for entrant in entrants} - {""}
    return {"gowork": version("gowork-leader"), **{server: version_of(server) for server in sorted(servers)}}


def markdown(facts: Mapping[str, str], versions: Mapping[str, str], entrants: Sequence[Entrant], turns: Turns) -> str:
    """A table that can be pasted into a page, with date, machine and versions; the fastest system comes first."""
    rounds = len(turns[GOWORK.name])
    servers = {"redis": "Redis", "postgresql": "PostgreSQL"}
    with_versions = [f"{title} {versions[name]}" for name, title in servers.items() if name in versions]
    about = [
        f"{facts['time'][:10]}, {facts['processor']}, {facts['cores']} cores, {facts['memory']}, {facts['kernel']},",
        f"{facts['file system']}, {', '.join([facts['Python'], *with_versions])}.",
        f"Medians of {rounds} rounds, with the lowest and highest in brackets." if rounds > 1 else "One round.",
    ]
    lines = [
        " ".join(about),
        "",
        "| system, where its tasks are | tasks/s, end to end | gowork is | tasks/s, submitted"
        " | submit → result, p50; p99 | resident, idle; at the end | tasks of a round |",
        "|---|---|---|---|---|---|---|",
    ]
    for entrant in sorted(entrants, key=lambda each: -_median(turns, each, "completed_per_second")):
        system, of = entrant.system, turns[entrant.system.name]
        ours = system.name == GOWORK.name
        name = f"{system.title} {versions['gowork'] if ours else system.version}, {system.store}"
        cells = [
            f"**{name}**" if ours else name,
            _with_range([turn.completed_per_second for turn in of]),
            "–" if ours else f"{number(p50(times(turns, system.name)))} times as fast",
            number(_median(turns, entrant, "submitted_per_second")),
            f"{number(_median(turns, entrant, 'p50_ms'))} ms; {number(_median(turns, entrant, 'p99_ms'))} ms",
            f"{number(_median(turns, entrant, 'idle_mb'))} MB; {number(_median(turns, entrant, 'end_mb'))} MB",
            f"{entrant.tasks:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(turns: Turns, entrant: Entrant, of: str) -> float:
    return p50([getattr(turn, of) for turn in turns[entrant.system.name]])


def _with_range(values: Sequence[float]) -> str:
    median = number(p50(values))
    return f"{median} ({number(min(values))} to {number(max(values))})" if len(values) > 1 else median
