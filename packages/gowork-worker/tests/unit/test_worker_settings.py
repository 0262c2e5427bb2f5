"""How each setting of a runner's process is read and restored."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import json
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from gowork.worker._runner.settings import settings_of
from gowork.worker._runner.settings_seldom import seldom_settings
from gowork.worker._runner.upkeep import Keeper


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Restores what the tests change."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("GOWORK_TEST", "at first")


def now() -> dict[str, Keeper]:
    """The settings of this process, by their names."""
    return {setting.name: setting for setting in settings_of(asyncio.get_running_loop())}


async def test_what_programs_do_every_day_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a runner, where nobody has asked for the policy yet.
    monkeypatch.setattr(asyncio.events, "_event_loop_policy", None)
    settings = now()
    asyncio.new_event_loop().close()
    with warnings.catch_warnings(), contextlib.chdir("/"), decimal.localcontext():
        warnings.simplefilter("ignore")
        logging.getLogger("gowork.test.settings").setLevel("DEBUG")
    time.tzset()
    json.dumps({"time": time.time()})
    assert [name for name, setting in settings.items() if not setting.is_kept()] == []


async def test_a_variable_that_is_added_stays_and_others_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = now()["environment variables"]
    monkeypatch.setenv("GOWORK_TEST_ADDED", "1")
    assert not setting.is_kept()
    assert not setting.restore()
    assert setting.is_kept()
    os.environ["GOWORK_TEST"] = "changed"
    assert setting.restore()
    assert (os.environ["GOWORK_TEST"], os.environ["GOWORK_TEST_ADDED"]) == ("at first", "1")
    # What has been added is kept from then on, as all else is.
    monkeypatch.setenv("GOWORK_TEST_ADDED", "2")
    assert setting.restore()
    assert os.environ["GOWORK_TEST_ADDED"] == "1"


async def test_a_folder_that_is_added_to_the_search_path_stays_behind_the_rest() -> None:
    setting, before = now()["module search path"], [*sys.path]
    sys.path.append("/last")
    assert not setting.restore()
    sys.path.insert(0, "/first")
    sys.path.remove(before[0])
    assert setting.restore()
    assert sys.path == [*before, "/last", "/first"]
    assert setting.is_kept()


@pytest.fixture
def file_size() -> Iterator[tuple[int, int]]:
    """The limits of the size of files, which are restored afterwards."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield limits
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def limits_now() -> Keeper:
    (setting,) = [each for each in seldom_settings() if each.name == "resource limits"]
    return setting


def test_a_limit_that_is_lowered_is_restored_and_one_that_is_raised_stays(file_size: tuple[int, int]) -> None:
    soft, hard = file_size
    setting = limits_now()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, hard))
    assert not setting.is_kept()
    assert setting.restore()
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == (soft, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, hard))
    setting = limits_now()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert setting.is_kept()


def test_a_limit_that_nobody_can_raise_again_wears_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr("gowork.worker._runner.settings_seldom._getrlimit", lambda limit: limits)
    setting = limits_now()
    limits = (1 << 20, 1 << 30)
    made: list[tuple[int, int]] = []
    monkeypatch.setattr("gowork.worker._runner.settings_seldom._setrlimit", lambda limit, value: made.append(value))
    with pytest.raises(OSError, match="hard limit"):
        setting.restore()
    # It is at least as high as it may be.
    assert set(made) == {(1 << 30, 1 << 30)}


async def test_a_directory_that_is_gone_cannot_be_restored(tmp_path: Path) -> None:
    setting = now()["working directory"]
    os.chdir("/")
    (tmp_path / "here").rmdir()
    assert not setting.is_kept()
    with pytest.raises(FileNotFoundError):
        setting.restore()


async def test_a_runner_that_begins_without_a_directory_restores_none(tmp_path: Path) -> None:
    (tmp_path / "here").rmdir()
    setting = now()["working directory"]
    assert setting.is_kept()
    os.chdir("/")
    assert setting.is_kept()
