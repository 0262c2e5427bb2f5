"""Plots what Grafana's dashboards show of a real cluster, one picture for each board.

    python docs/pictures/plot_panels.py FOLDER [--seconds N]

Runs the cluster of tests/deploy/live_cluster.py under a real Prometheus, kills a worker at half time, and asks every
query of every panel that has a course in time. `nox -s pictures` runs it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("deploy", "e2e", "tracing")]

from live_cluster import Live, filled_in, live  # noqa: E402 - it is found by what stands before

COLUMNS = 3
#: Labels that tell lines of a panel apart, in the order of their names.
_SHOWN = ("queue", "handler", "reason", "state", "status", "outcome", "result", "code", "worker", "method", "instance")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plots what Grafana's dashboards show of a real cluster.")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the cluster runs [120]")
    options = parser.parse_args()
    mpl.use("Agg")
    plt.style.use("fast")
    with tempfile.TemporaryDirectory() as folder, live(Path(folder)) as cluster:
        threading.Event().wait(options.seconds / 2)
        cluster.kill_worker("worker-2")
        killed = time.time()
        threading.Event().wait(options.seconds / 2)
        for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
            plot(json.loads(path.read_text()), cluster, killed, options.folder / f"{path.stem}.png")


def plot(board: dict[str, Any], cluster: Live, killed: float, target: Path) -> None:
    """One picture with all panels of a board that have a course in time."""
    panels = [panel for panel in board["panels"] if panel["type"] in ("timeseries", "state-timeline")]
    rows = math.ceil(len(panels) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(6 * COLUMNS, 2.8 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    now = time.time()
    for panel, axis in zip(panels, axes.flat, strict=False):
        for asked in panel["targets"]:
            range_ = {"start": f"{cluster.began:.0f}", "end": f"{now:.0f}", "step": "1"}
            for series in cluster.prometheus.ask("query_range", query=filled_in(asked["expr"]), **range_)["result"]:
                points = [(float(at) - cluster.began, float(value)) for at, value in series["values"]]
                axis.plot(*zip(*points, strict=True), label=legend(asked, series["metric"]), linewidth=1.2)
        axis.axvline(killed - cluster.began, color="gray", linestyle=":", linewidth=1)
        axis.set_title(panel["title"], fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.set_ylabel(panel["fieldConfig"]["defaults"]["unit"], fontsize=7)
        if axis.lines[:-1]:
            axis.legend(fontsize=5, loc="upper left", ncols=2, framealpha=0.6)
    figure.suptitle(f"{board['title']}: seconds since the start; dotted: a worker is killed", fontsize=10)
    figure.savefig(target, dpi=70, metadata={"Software": None})
    plt.close(figure)


def legend(asked: dict[str, Any], labels: dict[str, str]) -> str:
    """As Grafana writes it."""
    text = str(asked.get("legendFormat", ""))
    for name in _SHOWN:
        text = text.replace("{{" + name + "}}", labels.get(name, ""))
    return text if "{{" not in text else " ".join(labels.get(name, "") for name in _SHOWN if name in labels)


if __name__ == "__main__":
    main()
