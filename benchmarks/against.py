"""Measures the processor time of a task for this tree and for an earlier version, in turns.

A machine that others use is faster in one minute than in the next. So the two run in pairs, one right after the other,
and take turns in being first. The ratios within the pairs are what counts.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence

from processes import HERE, Cluster, Processes
from report import Bench, Measure

WHEELS = HERE.parent / "tests/compat/wheels"
#: The processor time of this tree divided by that of the earlier version must not exceed this.
RATIO_MAX = 1.03
_TREE = "this tree"
_HANDLERS = {"threads": "bench.thread", "async": "bench.async"}
#: The number of tasks that run before the measurement, so that connections are open and credit has grown.
_WARM_UP = 2_000

#: {part of the system: µs of processor time for a task}
Micros = Mapping[str, float]


def versions() -> list[str]:
    """The versions whose wheels are kept."""
    return sorted({wheel.name.split("-")[1] for wheel in WHEELS.glob("*.whl")})


def run(bench: Bench, version: str, pairs: int) -> list[Measure]:
    """Measures `pairs` pairs for each kind of handler."""
    shown = bench.progress.add_task(f"against {version}", total=len(_HANDLERS) * pairs * 2)
    measures = []
    with tempfile.TemporaryDirectory() as folder:
        for wheel in sorted(WHEELS.glob(f"*-{version}-*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)
        # Its unpacked wheels come first on the path; both versions need the same libraries.
        variables = {version: {"PYTHONPATH": folder}, _TREE: {}}
        for kind, handler in _HANDLERS.items():
            measured: dict[str, list[Micros]] = {version: [], _TREE: []}
            for pair in range(pairs):
                for name in (version, _TREE) if pair % 2 else (_TREE, version):
                    measured[name].append(_micros(bench, handler, variables[name]))
                    bench.progress.advance(shown)
            scenario = f"{kind}: {bench.tasks:,} no-op tasks of 50 bytes, in {pairs} pairs with {version}"
            measures += compared(scenario, version, measured[version], measured[_TREE])
    return measures


def compared(scenario: str, version: str, earlier: Sequence[Micros], tree: Sequence[Micros]) -> list[Measure]:
    """The measures of both versions and their ratios; the ratio of the sums must not exceed RATIO_MAX."""
    measures = []
    for part in [*earlier[0], "all"]:
        then, now = _of(part, earlier), _of(part, tree)
        ratios = [after / before for before, after in zip(then, now, strict=True)]
        measures += [
            Measure(scenario, f"{part}: {version}", "µs/task", then),
            Measure(scenario, f"{part}: {_TREE}", "µs/task", now),
            Measure(scenario, f"{part}: ratio", "", ratios, RATIO_MAX if part == "all" else None, "at most"),
        ]
    return measures


def _of(part: str, measured: Sequence[Micros]) -> list[float]:
    return [sum(each.values()) if part == "all" else each[part] for each in measured]


def _micros(bench: Bench, handler: str, variables: Mapping[str, str]) -> Micros:
    with Processes(bench.directory) as processes:
        cluster = Cluster(processes, variables=variables)
        address = cluster.addresses["scheduler"]
        processes.start("warm-up", "producer.py", address, handler, "0", str(_WARM_UP), **variables)
        before = cluster.cpu_seconds()
        took = processes.start("producer", "producer.py", address, handler, "0", str(bench.tasks), **variables)
        seconds = {"leader": 0.0, "supervisor": 0.0, "runners": 0.0, "client": took["cpu_seconds"]}
        for name, computed in cluster.cpu_seconds().items():
            seconds["runners" if name.startswith("runner ") else name] += computed - before[name]
    return {name: each / bench.tasks * 1e6 for name, each in seconds.items()}
