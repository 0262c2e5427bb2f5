"""When a runner restores what handlers have changed in its process, and what it leaves to them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gowork.worker._core.context import Context
from gowork.worker._core.logs import running
from gowork.worker._runner import upkeep
from gowork.worker._runner.upkeep import CHANGED_SECONDS_MAX, SETTING_LINES_MAX, Upkeep


class FakeSetting:
    """It is to be 0."""

    name = "fake"

    def __init__(self) -> None:
        self.value: Any = 0
        #: Raised when it is read, and when it is restored.
        self.fault: BaseException | None = None
        self.restoring_fault: BaseException | None = None
        #: The attempt in whose name it was restored.
        self.restored_by: object = None
        #: What `restore` returns.
        self.undone = True

    def read(self) -> Any:
        return self.value

    def is_kept(self) -> bool:
        if self.fault is not None:
            raise self.fault
        return bool(self.value == 0)

    def restore(self) -> bool:
        if self.restoring_fault is not None:
            raise self.restoring_fault
        self.value = 0
        self.restored_by = running.get()
        return self.undone


class Stage:
    """An Upkeep, and all that is around it."""

    def __init__(self) -> None:
        self.setting = FakeSetting()
        #: {fence: handler}
        self.running: dict[int, str] = {}
        self.worn: list[str] = []
        self.now = 0.0
        self.upkeep = Upkeep([self.setting], lambda: dict(self.running), self.worn.append)
        self.upkeep._monotonic_ns = self._clock

    def _clock(self) -> int:
        return int(self.now * 1e9)

    def look(self, *ended: str) -> None:
        self.upkeep.look(lambda: ended)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_what_is_looked_at_seldom_is_looked_at_about_once_a_second_and_while_it_is_changed(stage: Stage) -> None:
    seldom = FakeSetting()
    stage.upkeep = Upkeep([stage.setting], lambda: dict(stage.running), stage.worn.append, seldom=[seldom])
    seldom.value = 1
    stage.look()
    assert seldom.value == 1
    stage.running = {1: "careless"}
    stage.upkeep.look_after()
    assert seldom.value == 1  # Its attempt runs.
    stage.running = {}
    stage.look()
    assert seldom.value == 0
    seldom.value = 1
    stage.upkeep.look_after()
    assert seldom.value == 0


def test_a_change_is_restored_at_once_when_nothing_else_runs(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.setting.value = 1
    stage.look("careless")
    assert stage.setting.value == 0
    assert stage.upkeep.take_counts() == {"fake": 1}
    assert stage.upkeep.take_counts() == {}
    (record,) = caplog.records
    assert (vars(record)["setting"], vars(record)["handlers"]) == ("fake", "careless")


def test_lines_are_in_no_attempts_name_though_one_has_led_here(stage: Stage) -> None:
    attempt = Context(id="innocent")
    outer = running.set(attempt)
    try:
        stage.setting.value, stage.setting.restored_by = 1, attempt
        stage.look("careless")
        assert stage.setting.restored_by is None
        assert running.get() is attempt
    finally:
        running.reset(outer)


def test_what_nobody_has_changed_asks_nobody_who_it_was(stage: Stage) -> None:
    stage.upkeep.look(lambda: pytest.fail("it was asked"))


def test_a_change_is_left_to_those_that_may_have_made_it_until_they_have_ended(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.running = {1: "careful", 2: "other"}
    stage.setting.value = 1
    stage.look("careless")
    # It began after the change.
    stage.running[3] = "innocent"
    del stage.running[1]
    stage.look("careful")
    assert stage.setting.value == 1
    del stage.running[2]
    stage.look("other")
    assert stage.setting.value == 0
    assert vars(caplog.records[0])["handlers"] == "careful, careless, other"


def test_a_change_that_is_undone_by_its_handler_is_no_change(stage: Stage) -> None:
    stage.running = {1: "careful"}
    stage.setting.value = 1
    stage.look()
    stage.setting.value = 0
    stage.look()
    # The next one is another change, of whom another attempt is suspected.
    stage.running = {2: "careless"}
    stage.setting.value = 1
    stage.look()
    assert stage.setting.value == 1
    stage.running = {3: "innocent"}
    stage.look()
    assert stage.setting.value == 0
    assert stage.upkeep.take_counts() == {"fake": 1}


def test_another_value_may_be_of_any_attempt_that_runs_by_then(stage: Stage) -> None:
    stage.running = {1: "first"}
    stage.setting.value = 1
    stage.look()
    stage.running = {2: "second"}
    stage.setting.value = 2
    stage.look()
    assert stage.setting.value == 2


def test_a_change_is_restored_after_a_time_when_others_run_beside_those_that_may_have_made_it(stage: Stage) -> None:
    stage.running = {1: "careful"}
    stage.setting.value = 1
    stage.look()
    stage.now = CHANGED_SECONDS_MAX + 1
    stage.look()
    assert stage.setting.value == 1, "it harms nobody"
    stage.running[2] = "innocent"
    stage.now = CHANGED_SECONDS_MAX - 1
    stage.look()
    assert stage.setting.value == 1
    stage.now = CHANGED_SECONDS_MAX + 1
    stage.look()
    assert stage.setting.value == 0


def test_a_setting_that_goes_on_changing_is_restored_no_later(stage: Stage) -> None:
    stage.running = {1: "restless"}
    stage.setting.value = 1
    stage.look()
    stage.now = CHANGED_SECONDS_MAX - 1
    stage.setting.value = 2
    stage.look()
    stage.running[2] = "innocent"
    stage.now = CHANGED_SECONDS_MAX + 1
    stage.look()
    assert stage.setting.value == 0


def test_what_is_only_added_is_neither_counted_nor_logged(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.setting.undone = False
    stage.setting.value = 1
    stage.look("careful")
    assert stage.setting.value == 0
    assert (stage.upkeep.take_counts(), caplog.records) == ({}, [])


@pytest.mark.parametrize("fault", ["fault", "restoring_fault"])
def test_a_runner_that_cannot_be_restored_asks_once_to_be_replaced(stage: Stage, fault: str) -> None:
    setattr(stage.setting, fault, KeyboardInterrupt("no"))
    stage.setting.value = 1
    for _ in range(3):
        stage.look("careless")
    (reason,) = stage.worn
    assert "no" in reason


def test_lines_of_one_setting_are_bounded(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3 * SETTING_LINES_MAX):
        stage.setting.value = 1
        stage.look("careless")
    assert SETTING_LINES_MAX <= len(caplog.records) <= 2 * SETTING_LINES_MAX
    assert stage.upkeep.take_counts() == {"fake": 3 * SETTING_LINES_MAX}


def test_a_line_names_a_bounded_number_of_handlers(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.setting.value = 1
    stage.look(*(f"h{number}" for number in range(9)))
    assert vars(caplog.records[0])["handlers"] == "h0, h1, h2, h3, h4, ..."


def test_the_threads_that_run_tasks_are_none_too_many(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    most = upkeep.THREADS_LEFT_MAX + 2_000
    stage.upkeep = Upkeep([stage.setting], lambda: dict(stage.running), stage.worn.append, threads_of_tasks=2_000)
    for threads, worn in ((most, []), (most + 1, ["3,001 threads run in it"])):
        monkeypatch.setattr(upkeep, "_active_count", lambda threads=threads: threads)
        stage.upkeep.look_after()
        assert stage.worn == worn


def test_a_runner_with_too_many_threads_asks_to_be_replaced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.upkeep.look_after()
    assert not stage.worn
    monkeypatch.setattr(upkeep, "_active_count", lambda: upkeep.THREADS_LEFT_MAX + 1)
    stage.upkeep.look_after()
    assert stage.worn == ["1,001 threads run in it"]


@contextmanager
def _descriptors_max(number: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_runner_with_few_descriptors_left_asks_to_be_replaced(stage: Stage) -> None:
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    with _descriptors_max(2 * free + 10):
        stage.upkeep.look_after()
        assert not stage.worn
        stage.upkeep.look_after()
    with _descriptors_max(free + 2):
        stage.upkeep.look_after()
    assert "descriptors are open" in stage.worn[0]
