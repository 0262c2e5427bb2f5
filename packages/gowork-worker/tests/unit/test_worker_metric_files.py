"""Values that prometheus_client has left in files become one for each series."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from gowork.worker._app import handler_metrics, metric_files
from gowork.worker._app.handler_metrics import HandlerMetrics
from gowork.worker._app.metric_files import SERIES_MAX, Values, complain_once, read

Eventually = Callable[[Callable[[], Any]], Awaitable[Any]]
#: Makes the same metrics in another process, which ends; its arguments are values.
_MAKE = """
import sys
from prometheus_client import Counter, Gauge, Histogram, Summary
MODES = ["all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent", "livemostrecent"]
counter = Counter("cups", "Cups.", ["kind"])
histogram = Histogram("brewing_seconds", "Brewing.", ["kind"], buckets=(1, 5))
summary = Summary("milk_litres", "Milk.")
gauges = [Gauge(f"level_{mode}", "Level.", ["kind"], multiprocess_mode=mode) for mode in MODES]
for word in sys.argv[1:]:
    value = float(word)
    counter.labels("tea").inc(value)
    histogram.labels("tea").observe(value)
    summary.observe(value)
    for gauge in gauges:
        gauge.labels("tea").set(value)
"""


@pytest.fixture(autouse=True)
def complaints_are_not_remembered() -> Iterator[None]:
    complain_once.cache_clear()
    yield
    complain_once.cache_clear()


def make(directory: Path, *values: float) -> None:
    """Lets a process make metrics."""
    directory.mkdir(exist_ok=True)
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", _MAKE, *map(str, values)], check=True, env=environment)


def samples(metrics: list[Metric]) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], float]:
    return {
        (metric.type, sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def shown(*paths: Path, ended: bool = False) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], float]:
    values = Values()
    values.add(read(paths, ended=ended))
    return samples(values.metrics())


def test_what_is_shown_is_what_prometheus_client_itself_shows(tmp_path: Path) -> None:
    make(tmp_path, 3, 0.5, 7)
    make(tmp_path, 2)
    files = [str(path) for path in tmp_path.glob("*.db")]
    assert len(files) == 2 * 13
    theirs = samples(list(MultiProcessCollector.merge(files)))
    assert shown(*tmp_path.glob("*.db")) == theirs
    assert len(theirs) == 20


def test_of_a_process_that_has_ended_no_gauge_of_its_own_is_left(tmp_path: Path) -> None:
    make(tmp_path, 3)
    left = shown(*tmp_path.glob("*.db"), ended=True)
    gauges = {name for kind, name, _ in left if kind == "gauge"}
    assert gauges == {"level_min", "level_max", "level_sum", "level_mostrecent"}
    assert left["counter", "cups_total", (("kind", "tea"),)] == 3


def write(path: Path, values: Mapping[str, float]) -> None:
    """Writes a file as prometheus_client does."""
    file = MmapedDict(str(path))
    for key, value in values.items():
        file.write_value(key, value, 0.0)
    file.close()


def key(metric: str, sample: str = "", **labels: str) -> str:
    return json.dumps([metric, sample or f"{metric}_total", labels, "Help."], sort_keys=True)


CUPS = ("counter", "cups_total", ())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0" * 65536,
        os.urandom(200),
        struct.pack("ii", 2**30, 0) + b"\xff" * 100,
        struct.pack("iiii", 64, 0, -36, 0) + b"\0" * 100,
        struct.pack("iiii", 64, 0, -12, 0) + b"\0" * 100,
        struct.pack("ii", -5, 0) + struct.pack("i", -36) * 50,
        struct.pack("iii4sdd", 40, 0, 4, b"oops", 1.0, 0.0) + b"\0" * 100,
        struct.pack("iii4sdd", 40, 0, 4, b"\xff\xff\xff\xff", 1.0, 0.0) + b"\0" * 100,
    ],
    ids=range(10),
)
def test_a_file_that_is_broken_hides_no_other(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "counter_1.db", {key("cups"): 3})
    (tmp_path / "counter_2.db").write_bytes(content)
    assert shown(*tmp_path.iterdir()) == {CUPS: 3}


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "counter_1.db", {key("cups"): 3})
    os.mkfifo(tmp_path / "counter_2.db")
    (tmp_path / "counter_3.db").mkdir()
    (tmp_path / "counter_4.db").symlink_to("/dev/zero")
    (tmp_path / "notes_5.db").write_bytes(b"x")
    with open(tmp_path / "counter_6.db", "wb") as large:
        large.truncate(metric_files.FILE_BYTES_MAX + 1)
    assert shown(*tmp_path.iterdir()) == {CUPS: 3}


def test_what_stands_before_a_break_counts(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    write(path, {key("cups"): 3, key("cups", kind="tea"): 4})
    data = bytearray(path.read_bytes())
    (used,) = struct.unpack_from("i", data)
    path.write_bytes(data[: used - 40])
    assert shown(path) == {CUPS: 3}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1, 2, 3, 4]",
        '["a", "b_total", {}, "Help."]',
        '["cups", "cups_total", [], "Help."]',
        '["cups", "cups_total", {"kind": 1}, "Help."]',
        '["", "", {}, ""]',
        '["cups", "cups_bucket", {"le": "all"}, "Help."]',
        '["cups", "cups_total", {}]',
        '["cups", "cups", {}, "Help."]',
    ],
)
def test_a_series_that_nobody_can_have_made_is_left_out(tmp_path: Path, text: str) -> None:
    write(tmp_path / "counter_1.db", {text: 1, key("mugs"): 3})
    assert shown(*tmp_path.iterdir()) == {("counter", "mugs_total", ()): 3}


def test_a_metric_of_two_types_is_shown_as_one_of_them(tmp_path: Path) -> None:
    write(tmp_path / "counter_1.db", {key("cups"): 3})
    write(tmp_path / "gauge_sum_1.db", {key("cups", "cups"): 4})
    assert shown(*tmp_path.iterdir()) == {CUPS: 3}


def test_a_series_whose_help_has_changed_is_one_series(tmp_path: Path) -> None:
    write(tmp_path / "counter_1.db", {key("cups"): 3, key("cups").replace("Help.", "Cups served."): 4})
    assert shown(*tmp_path.iterdir()) == {CUPS: 7}


def test_a_histogram_is_shown_once_all_its_buckets_are_there(tmp_path: Path) -> None:
    whole = {
        key("s", "s_sum"): 2,
        key("s", "s_bucket", le="1.0"): 0,
        key("s", "s_bucket", le="+Inf"): 1,
    }
    write(tmp_path / "histogram_1.db", dict(list(whole.items())[:2]))
    assert shown(*tmp_path.iterdir()) == {}
    write(tmp_path / "histogram_2.db", whole)
    assert shown(*tmp_path.iterdir())["histogram", "s_count", ()] == 1


def test_series_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "counter_1.db", {key("cups", number=str(number)): 1 for number in range(SERIES_MAX + 1)})
    assert len(shown(*tmp_path.iterdir())) == SERIES_MAX
    assert "too many series" in caplog.text


class Keeper:
    """What a worker does with the metrics of its runners, without the runners."""

    def __init__(self, home: Path) -> None:
        self.metrics = HandlerMetrics(home)

    def run(self, cups: float, pid: int = 1) -> dict[str, str]:
        """A runner that counts, and goes on."""
        variables = self.metrics.begin()
        write(self.directory(variables) / f"counter_{pid}.db", {key("cups"): cups})
        return variables

    @staticmethod
    def directory(variables: dict[str, str]) -> Path:
        return Path(variables["PROMETHEUS_MULTIPROC_DIR"])

    def cups(self) -> float | None:
        return samples(list(self.metrics.collect())).get(CUPS)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path / "home")
    with keeper.metrics:
        yield keeper


def is_gone(directory: Path) -> bool:
    return not directory.exists()


async def test_what_a_runner_has_counted_is_there_once_at_any_moment(keeper: Keeper, eventually: Eventually) -> None:
    for number in range(1, 20):
        variables = keeper.run(1)
        assert keeper.cups() == number
        keeper.metrics.ended(variables)
        assert keeper.cups() == number
        await eventually(functools.partial(is_gone, keeper.directory(variables)))
        assert keeper.cups() == number


async def test_reading_that_is_cut_off_neither_loses_nor_counts_twice(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = keeper.run(1)
    write(keeper.directory(variables) / "counter_2.db", {key("cups"): 10})
    real = MmapedDict.read_all_values_from_file
    loop, failed = asyncio.get_running_loop(), asyncio.Event()

    def fails(filename: str) -> object:
        if filename.endswith("_2.db"):
            loop.call_soon_threadsafe(failed.set)
            raise OSError(24, "Too many open files")
        return real(filename)

    with monkeypatch.context() as patch:
        patch.setattr(MmapedDict, "read_all_values_from_file", staticmethod(fails))
        keeper.metrics.ended(variables)
        await failed.wait()
        assert keeper.cups() == 1
    assert keeper.cups() == 11
    assert not keeper.directory(variables).exists()
    assert keeper.cups() == 11


def test_children_that_have_ended_leave_no_files(keeper: Keeper) -> None:
    variables = keeper.run(1, os.getpid())
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        write(keeper.directory(variables) / f"counter_{child.pid}.db", {key("cups"): 10})
        write(keeper.directory(variables) / f"gauge_all_{child.pid}.db", {key("level", "level"): 10})
    assert keeper.cups() == 31
    assert [path.name for path in keeper.directory(variables).iterdir()] == [f"counter_{os.getpid()}.db"]
    assert keeper.cups() == 31


def test_a_file_that_cannot_be_removed_is_counted_once(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    keeper.run(5, child.pid)

    def fails(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fails)
    assert [keeper.cups(), keeper.cups()] == [5, 5]


def test_directories_of_workers_that_were_killed_are_removed_and_no_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HandlerMetrics(home) as lives:
        directory = Path(lives.begin()["PROMETHEUS_MULTIPROC_DIR"])
        orphan = home / "0123456789abcdef"
        (orphan / "1").mkdir(parents=True)
        with HandlerMetrics(home):
            assert not orphan.exists()
            assert directory.is_dir()
    assert list(home.iterdir()) == []


def test_a_runner_for_which_there_is_no_directory_has_no_metrics(keeper: Keeper) -> None:
    variables = keeper.run(1)
    directory = keeper.directory(variables)
    (directory.parent / "2").write_text("something is in the way")
    assert keeper.metrics.begin() == {}
    keeper.metrics.ended({})
    assert keeper.cups() == 1


def test_a_runner_has_no_metrics_where_there_is_no_room_for_them(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handler_metrics, "ROOM_BYTES_MIN", 1 << 62)
    assert keeper.metrics.begin() == {}
    (record,) = caplog.records
    assert "no room" in vars(record)["reason"]
