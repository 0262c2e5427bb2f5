"""Measures the cost of metrics and traces: tasks a second with each, also as a ratio to the rate with neither.

Metrics are counted, and scraped once a second. Client, leader and runners make the traces, and send them to a collector
on the same cores that throws them away.
"""

from __future__ import annotations

import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from processes import Cluster, Processes
from report import Bench, Measure

_HANDLER = "bench.thread"
_WARM_UP = 2_000
_SCRAPE_SECONDS = 1.0


class Variant(NamedTuple):
    """Which metrics and traces a cluster has."""

    name: str
    #: The leader's program.
    leader: tuple[str, ...] = ("-m", "gowork.leader")
    scraped: bool = True
    #: The share of traces that is recorded; None if tracing is off.
    sampled: float | None = None
    #: The least that the ratio should be; None if nothing is asked.
    target: float | None = None


NONE = Variant("neither metrics nor traces", ("uncounted_leader.py",), scraped=False)
VARIANTS = (
    Variant("metrics", target=0.95),
    Variant("metrics, 1 trace in 100", sampled=0.01, target=0.9),
    Variant("metrics, every trace", sampled=1.0),
)


def run(bench: Bench) -> list[Measure]:
    rates: dict[str, list[float]] = defaultdict(list)
    shown = bench.progress.add_task("watched", total=bench.rounds * (1 + len(VARIANTS)))
    for number in range(bench.rounds):
        # Each round has another order, so that a machine that slows down favours no variant.
        order = [NONE, *VARIANTS]
        for variant in order[number % len(order) :] + order[: number % len(order)]:
            rates[variant.name].append(_rate(bench, variant))
            bench.progress.advance(shown)
    scenario = f"watched: {bench.tasks:,} no-op tasks of 50 bytes, 1 worker with 2 runner processes"
    measures = [Measure(scenario, NONE.name, "tasks/s", rates[NONE.name])]
    for variant in VARIANTS:
        measures.append(Measure(scenario, variant.name, "tasks/s", rates[variant.name]))
        ratios = [rate / none for rate, none in zip(rates[variant.name], rates[NONE.name], strict=True)]
        measures.append(Measure(scenario, f"{variant.name}: of none", "ratio", ratios, variant.target))
    return measures


def _rate(bench: Bench, variant: Variant) -> float:
    with Processes(bench.directory) as processes:
        variables = {}
        if variant.sampled is not None:
            variables = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": processes.start("sink", "otlp_sink.py")["endpoint"],
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": str(variant.sampled),
            }
        cluster = Cluster(processes, leader=variant.leader, variables=variables)
        with _scraped(cluster.addresses["http"]) if variant.scraped else nullcontext():
            arguments = (cluster.addresses["scheduler"], _HANDLER, str(_WARM_UP), str(bench.tasks))
            took = processes.start("producer", "producer.py", *arguments, **variables)["seconds"]
    return bench.tasks / float(took)


@contextmanager
def _scraped(address: str) -> Iterator[None]:
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(_SCRAPE_SECONDS):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
                page.read()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield
    finally:
        done.set()
        scraper.join()
