"""How each setting of a runner's process is read and restored."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

import pytest

from gowork.worker._runner.settings import settings_of
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
