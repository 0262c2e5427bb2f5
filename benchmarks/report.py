"""Shows what was measured, for people and for programs, and on which machine."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import apsw
import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

#: File systems that keep nothing on a disk.
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True)
class Measure:
    """One thing that was measured, once for each round."""

    scenario: str
    name: str
    unit: str
    rounds: Sequence[float]
    #: The least or the most that the median should be, by `sense`; None if nothing is asked.
    target: float | None = None
    sense: Literal["at least", "at most"] = "at least"
    #: Whether it was measured without gowork.
    raw: bool = False

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.sense == "at least" else self.value <= self.target


@dataclass
class Bench:
    """What every scenario gets: where to write, how much to do, and where to show its progress."""

    directory: Path
    rounds: int
    tasks: int
    progress: Progress
    #: How many tasks wait, and how many run, while leaders are killed; None for `pending`: none are.
    pending: int | None = None
    running: int = 0
    #: {what could not be measured: why}
    left_out: dict[str, str] = field(default_factory=dict)
    #: A table in Markdown, to be pasted into a page; nothing where a scenario makes none.
    markdown: str = ""


def progress_on(console: Console) -> Progress:
    # Drawn seldom, because drawing takes processor time from what is measured.
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, refresh_per_second=2, transient=True)


def machine(directory: Path) -> dict[str, str]:
    """The facts about the machine on which the figures depend."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": file_system(directory),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": apsw.sqlite_lib_version(),
        "Python's SQLite": sqlite3.sqlite_version,
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        "gowork-leader": version("gowork-leader"),
    }


def file_system(directory: Path) -> str:
    """The kind of file system that holds this directory."""
    path = directory.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (path, *path.parents) if parent in mounts), "unknown")


def is_on_disk(directory: Path) -> bool:
    return file_system(directory) not in _IN_MEMORY


def show(console: Console, facts: dict[str, str], measures: Iterable[Measure]) -> None:
    """Prints the machine and one table for each scenario."""
    console.print("  ".join(f"[dim]{name}[/] {fact}" for name, fact in facts.items()))
    by_scenario: dict[str, list[Measure]] = {}
    for measure in measures:
        by_scenario.setdefault(measure.scenario, []).append(measure)
    for scenario, rows in by_scenario.items():
        table = Table(title=scenario, title_justify="left", title_style="bold")
        table.add_column("measured", overflow="fold")
        table.add_column("median", justify="right")
        table.add_column("unit")
        table.add_column("lowest – highest", justify="right", style="dim")
        table.add_column("target", justify="right")
        table.add_column("")
        for row in rows:
            target = "" if row.target is None else f"{row.sense} {number(row.target)}"
            verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
            name = f"[dim]raw: {row.name}[/]" if row.raw else row.name
            spread = f"{number(min(row.rounds))} – {number(max(row.rounds))}" if len(row.rounds) > 1 else ""
            table.add_row(name, number(row.value), row.unit, spread, target, verdict)
        console.print(table)


def show_rest(console: Console, bench: Bench) -> None:
    """Prints what was left out, with the reasons, and the table in Markdown."""
    for name, reason in bench.left_out.items():
        console.print(f"left out: {name}: {reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if bench.markdown:
        console.print(f"\n{bench.markdown}", markup=False, highlight=False, soft_wrap=True)


def write_json(path: Path, facts: dict[str, str], measures: Iterable[Measure], left_out: Mapping[str, str]) -> None:
    """Writes everything as one JSON object, which docs/benchmarks.md describes."""
    rows = [{**asdict(measure), "value": measure.value, "met": measure.met} for measure in measures]
    path.write_text(json.dumps({"machine": facts, "measures": rows, "left_out": dict(left_out)}, indent=2) + "\n")


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
