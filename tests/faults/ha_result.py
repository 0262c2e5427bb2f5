"""The figures of a run: how long each kind of fault kept new tasks back, and what there was of everything else."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos_history import History
from ha_cluster import LINKED_WORKERS
from ha_faults import FROM_WORKERS, Event, Kind
from ha_load import Told
from ha_log import LogChecks
from ha_targets import TARGETS, percentiles
from rich.console import Console
from rich.table import Table

from gowork.client import AttemptOutcome

#: How long after a fault a new task must have completed, in seconds. It is long enough for a machine with ten times the
#: load that it bears.
STUCK_SECONDS = 120.0
#: What the leader says while the log is full.
_LOG_FULL = "the log takes nothing"
#: How many findings are printed.
_FOUND_MAX = 30


@dataclass(frozen=True)
class Times:
    """How long one kind of fault kept new tasks back, in seconds, sorted."""

    #: Until the first submit that began after the fault was acknowledged.
    acknowledged: Sequence[float]
    #: Until the first task whose submit began after the fault had completed.
    completed: Sequence[float]
    #: The longest call of an application, waits left out, that was under way between a fault and the next one.
    longest: float


@dataclass
class Result:
    """What came of a run."""

    events: list[Event] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    times: Mapping[Kind, Times] = field(default_factory=dict)
    #: {error of a call, as an application saw it: how often}
    errors: Counter[str] = field(default_factory=Counter)
    #: {what: how many}
    counts: dict[str, int] = field(default_factory=dict)


def measure(result: Result, told: Told) -> None:
    """Finds out how long each fault kept new tasks back. One that kept them back for too long is a finding."""
    times: dict[Kind, list[tuple[float, float, float]]] = defaultdict(list)
    began = [submit.began for submit in told.submits]
    calls = [call for calls in told.calls.values() for call in calls if call.timed]
    following = [event.at for event in result.events[1:]] + [float("inf")]
    for event, after in zip(result.events, following, strict=True):
        later = told.submits[bisect_left(began, event.at) :]
        acknowledged = _first(event.at, [submit.acknowledged for submit in later])
        if event.kind in FROM_WORKERS:
            # Until each worker that has a link works again, because some may not have been with the leader.
            by_worker = [[s.completed for s in later if s.worker == worker] for worker in LINKED_WORKERS]
            completed = max(_first(event.at, each) for each in by_worker)
        else:
            completed = _first(event.at, [submit.completed for submit in later])
        if max(acknowledged, completed) > STUCK_SECONDS:
            result.found.append(f"new tasks complete within {STUCK_SECONDS:g} s: {event}")
        longest = max(
            (c.ended - c.began for c in calls if c.began < after and event.at < c.ended < float("inf")), default=0.0
        )
        times[event.kind].append((acknowledged, completed, longest))
    result.times = {
        kind: Times(sorted(t[0] for t in found), sorted(t[1] for t in found), max(t[2] for t in found))
        for kind, found in times.items()
    }


def _first(at: float, moments: Iterable[float | None]) -> float:
    """Returns how long after `at` the first of these was, in seconds; infinite when there is none."""
    return min((moment - at for moment in moments if moment is not None), default=float("inf"))


def count(result: Result, told: Told, history: History, log: LogChecks) -> None:
    result.errors = told.errors
    if any(event.kind is Kind.FILL_ETCD for event in result.events):
        # This one an application is told.
        result.errors = Counter({text: number for text, number in told.errors.items() if _LOG_FULL not in text})
    result.found += [
        f"an application sees a delay, not an error: {number} times {text}"
        for text, number in result.errors.most_common()
    ]
    attempts = [attempt for task in history.tasks.values() for attempt in task.attempts]
    result.counts = {
        "tasks acknowledged": len(told.ledger.acknowledged),
        "acknowledged tasks lost": sum(id not in history.tasks for id in told.ledger.acknowledged),
        "executions": len(history.executions),
        "executions that no attempt explains": _named(result, "every execution is an attempt on record"),
        "attempts that ran twice": _named(result, "an attempt runs at most once"),
        "attempts lost": sum(attempt.outcome is AttemptOutcome.LOST for attempt in attempts),
        "attempts interrupted": sum(attempt.outcome is AttemptOutcome.INTERRUPTED for attempt in attempts),
        "grants": log.grants,
        "fences that fall or are granted twice": _named(result, "fences only grow"),
        "terms": len(log.terms),
        "terms with two leaders": _named(result, "each term has one leader"),
        "entries": len(log.positions) - 1,
        "calls": sum(map(len, told.calls.values())),
        "tasks whose calls are not linearizable": _named(result, "calls about a task are linearizable"),
        "calls that failed": told.errors.total(),
        "tasks held back by the load": told.held_back,
    }


def _named(result: Result, rule: str) -> int:
    return sum(found.startswith(rule) for found in result.found)


def show(console: Console, result: Result) -> None:
    """Prints the figures and the findings."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("seconds until a new task is", "n", "acknowledged", "", "", "completed", "", "", "longest", "target"):
        table.add_column(title, justify="left" if title.startswith(("seconds", "target")) else "right")
    table.add_row("", "", "p50", "p99", "max", "p50", "p99", "max", "call", "", style="bold")
    for kind in Kind:
        if kind in result.times:
            times = result.times[kind]
            both = [*percentiles(times.acknowledged), *percentiles(times.completed)]
            figures = [f"{seconds:.2f}" for seconds in (*both, times.longest)]
            table.add_row(kind.value, str(len(times.acknowledged)), *figures, _judged(kind, times))
    console.print(table)
    counts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for what, number in result.counts.items():
        counts.add_row(what, f"{number:,}")
    console.print(counts)
    for line in result.found[:_FOUND_MAX]:
        console.print(line, style="red", markup=False, highlight=False)
    if len(result.found) > _FOUND_MAX:
        console.print(f"and {len(result.found) - _FOUND_MAX} more", style="red")


def _judged(kind: Kind, times: Times) -> str:
    target = TARGETS.get(kind)
    if target is None:
        return ""
    return f"{target}: {'met' if target.is_met(times.acknowledged, times.completed) else 'MISSED'}"


def _figures(seconds: Sequence[float]) -> dict[str, object]:
    p50, p99, most = percentiles(seconds)
    return {"p50": p50, "p99": p99, "max": most, "all": list(seconds)}


def write(path: Path, result: Result, seed: int) -> None:
    """Writes what came of a run as JSON."""
    times = {
        kind.value: {
            "acknowledged": _figures(each.acknowledged),
            "completed": _figures(each.completed),
            "longest_call": each.longest,
            "target": str(TARGETS[kind]) if kind in TARGETS else None,
            "is_met": TARGETS[kind].is_met(each.acknowledged, each.completed) if kind in TARGETS else None,
        }
        for kind, each in result.times.items()
    }
    whole = {
        "seed": seed,
        "seconds": times,
        "counts": result.counts,
        "errors": dict(result.errors),
        "found": result.found,
    }
    path.write_text(json.dumps(whole, indent=2) + "\n")
