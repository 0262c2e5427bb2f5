"""Reads the files of prometheus_client's multiprocess mode: one value for each series of each process.

Values of several processes are merged as prometheus_client does it: counters, histograms and summaries are added,
gauges go by their mode. Its own collector is not used: one broken file makes it show nothing, and it cannot add up the
values of ended processes. Here everything counts that can be read, up to where a file breaks off.
"""

from __future__ import annotations

import functools
import json
import logging
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.utils import floatToGoString

logger = logging.getLogger("gowork.worker")

#: A file that is larger is not read.
FILE_BYTES_MAX = 16 << 20
#: Most series, where each bucket is one. New ones beyond that are left out.
SERIES_MAX = 20_000
_REASON_CHARS_MAX = 500

#: Kinds, with which file names begin: the type, for gauges with the mode. Each set says how values are merged.
_ADDED = frozenset({"counter", "histogram", "summary", "gauge_sum", "gauge_livesum"})
_LEAST = frozenset({"gauge_min", "gauge_livemin"})
_MOST = frozenset({"gauge_max", "gauge_livemax"})
_LATEST = frozenset({"gauge_mostrecent", "gauge_livemostrecent"})
_BY_PROCESS = frozenset({"gauge_all", "gauge_liveall"})
#: {type: what its samples' names have after the metric's name}
_SUFFIXES = {
    "counter": {"_total"},
    "gauge": {""},
    "histogram": {"_bucket", "_count", "_sum"},
    "summary": {"_count", "_sum"},
}
_KINDS = _ADDED | _LEAST | _MOST | _LATEST | _BY_PROCESS
#: Kinds whose values end with their process: gauges of live modes, and those with a series for each process, because
#: there would be more series with each process that ends.
_FLEETING = _BY_PROCESS | {kind for kind in _KINDS if kind.startswith("gauge_live")}


class Series(NamedTuple):
    """The series that a value belongs to."""

    kind: str
    #: The process id, where each process has a series of its own; else empty.
    pid: str
    #: [metric, sample, labels, help] as JSON.
    key: str


class Value(NamedTuple):
    """A value, and when it was set, for gauges of which the latest counts."""

    number: float
    at: float


class Values:
    """One value for each series."""

    def __init__(self, values: Mapping[Series, Value] | None = None) -> None:
        self._values: dict[Series, Value] = dict(values or {})

    def __len__(self) -> int:
        return len(self._values)

    def copy(self) -> Values:
        """Returns a copy that can be added to by itself."""
        return Values(self._values)

    def add(self, values: Iterable[tuple[Series, Value]]) -> None:
        """Adds the values of another process."""
        mine = self._values
        for series, value in values:
            known = mine.get(series)
            if known is not None:
                mine[series] = _merged(series.kind, known, value)
            elif len(mine) < SERIES_MAX:
                mine[series] = value
            else:
                complain_once("metrics of handlers have too many series; new ones are left out", str(SERIES_MAX))

    def metrics(self) -> list[Metric]:
        """Returns the metrics for Prometheus, sorted by name."""
        families: dict[str, _Family] = {}
        for series, value in self._values.items():
            parsed = _parse(series.key)
            if parsed is None:
                complain_once("metrics of a handler cannot be read", series.key)
                continue
            family = families.get(parsed.metric)
            if family is None:
                family = families[parsed.metric] = _Family(parsed, series.kind)
            family.add(parsed, series, value)
        return [metric for _, family in sorted(families.items()) if (metric := family.metric()) is not None]


def read(paths: Iterable[Path], *, ended: bool) -> Iterator[tuple[Series, Value]]:
    """Yields the values in files.

    Args:
        paths: files that prometheus_client has named, with any suffix; others are skipped.
        ended: whether the processes that wrote them have ended; values that end with their process are then left out.

    Raises:
        OSError: when a file that is there cannot be read now. The values until then are not all.
    """
    for path in sorted(paths):
        kind, _, pid = path.stem.rpartition("_")
        if kind not in _KINDS or (ended and kind in _FLEETING):
            continue
        pid = pid if kind in _BY_PROCESS else ""
        for key, number, at in _read_file(path):
            yield Series(kind, pid, key), Value(number, at)


def _read_file(path: Path) -> Iterator[tuple[str, float, float]]:
    try:
        facts = path.stat(follow_symlinks=False)
        if not facts.st_size:
            return  # It was made this instant.
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > FILE_BYTES_MAX:
            raise RuntimeError(f"no file of at most {FILE_BYTES_MAX} bytes")
        last = 0
        # prometheus_client's own reader. A length that is garbage could lead it backwards, for ever.
        for key, number, at, position in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            if position <= last:
                raise RuntimeError("an entry has no length")
            last = position
            yield key, number, at
    except FileNotFoundError:
        pass  # It was removed meanwhile.
    except (RuntimeError, ValueError, struct.error) as error:
        complain_once("metrics of a handler cannot be read", f"{path}: {error}")


@functools.lru_cache(maxsize=100)
def complain_once(event: str, reason: str) -> None:
    """Logs a warning, unless the same one was logged lately, because the next scrape finds the same fault."""
    logger.warning(event, extra={"reason": reason[:_REASON_CHARS_MAX]})


def _merged(kind: str, one: Value, other: Value) -> Value:
    if kind in _ADDED:
        return Value(one.number + other.number, 0.0)
    if kind in _LEAST:
        return min(one, other)
    if kind in _MOST:
        return max(one, other)
    return max(one, other, key=lambda value: value.at)


class _Parsed(NamedTuple):
    metric: str
    sample: str
    labels: tuple[tuple[str, str], ...]
    documentation: str


@functools.lru_cache(maxsize=SERIES_MAX)
def _parse(key: str) -> _Parsed | None:
    """Returns a series' names, labels and help; None when prometheus_client cannot have written that."""
    try:
        metric, sample, labels, documentation = json.loads(key)
        pairs = tuple(sorted(labels.items()))
        float(labels.get("le", 0))
    except (ValueError, TypeError, AttributeError):
        return None
    texts: list[Any] = [metric, sample, documentation, *(text for pair in pairs for text in pair)]
    if not all(isinstance(text, str) for text in texts) or not metric or not sample.startswith(metric):
        return None
    return _Parsed(metric, sample, pairs, documentation)


class _Family:
    """The series of one metric."""

    def __init__(self, first: _Parsed, kind: str) -> None:
        self._name = first.metric
        self._documentation = first.documentation
        self._type = kind.partition("_")[0]
        self._samples: dict[tuple[str, tuple[tuple[str, str], ...]], Value] = {}

    def add(self, parsed: _Parsed, series: Series, value: Value) -> None:
        """Adds a value. Of a series whose help has changed there are several, which are merged."""
        if series.kind.partition("_")[0] != self._type:
            complain_once("a metric of handlers has two types; one is left out", self._name)
            return
        if parsed.sample.removeprefix(self._name) not in _SUFFIXES[self._type]:
            complain_once("metrics of a handler cannot be read", series.key)
            return
        labels = (*parsed.labels, ("pid", series.pid)) if series.pid else parsed.labels
        place = (parsed.sample, labels)
        known = self._samples.get(place)
        self._samples[place] = value if known is None else _merged(series.kind, known, value)

    def metric(self) -> Metric | None:
        """Returns the metric; None when no series of it is complete."""
        try:
            metric = Metric(self._name, self._documentation, self._type)
        except ValueError as error:
            complain_once("metrics of a handler cannot be read", str(error))
            return None
        if self._type == "histogram":
            self._add_histograms(metric)
        else:
            for (sample, labels), value in self._samples.items():
                metric.add_sample(sample, dict(labels), value.number)
        return metric if metric.samples else None

    def _add_histograms(self, metric: Metric) -> None:
        """Adds up the buckets: files count each bucket alone, and Prometheus wants the count up to each bound."""
        buckets: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
        for (_, labels), value in self._samples.items():
            text = dict(labels).get("le")
            if text is not None:
                rest = tuple(pair for pair in labels if pair[0] != "le")
                buckets.setdefault(rest, {})[float(text)] = value.number
        for rest, counts in buckets.items():
            total = self._samples.get((f"{self._name}_sum", rest))
            if total is None or float("inf") not in counts:
                continue  # Its first value is being written right now.
            count = 0.0
            for bound, here in sorted(counts.items()):
                count += here
                le: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
                metric.add_sample(f"{self._name}_bucket", {**dict(rest), "le": le}, count)
            metric.add_sample(f"{self._name}_count", dict(rest), count)
            metric.add_sample(f"{self._name}_sum", dict(rest), total.number)
