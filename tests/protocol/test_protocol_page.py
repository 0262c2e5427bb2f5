"""Compares the page docs/protocol.md with the contract and the code: its examples, its limits and its rules."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from gowork.leader._check.rules import RULES
from gowork.leader._core import commands
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import session_pb2

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
FRAMES = [
    (line[0], json.loads(line[2:]))
    for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
#: (a limit as the page writes it, [(module, constant)]).
LIMITS = [
    pytest.param(limit, re.findall(r"`([\w.]+):(\w+)`", names), id=what)
    for what, limit, names in re.findall(r"^\| ([^|]+) \| ([^|]+) \| (`gowork\.[^|]+) \|$", PAGE, re.MULTILINE)
]
SCALES = {"": 1, "s": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20}


def test_the_examples_are_frames_of_the_contract() -> None:
    assert len(FRAMES) > 15
    for sender, frame in FRAMES:
        kind = {"W": session_pb2.ConnectRequest, "L": session_pb2.ConnectResponse}[sender]
        message = json_format.ParseDict(frame, kind())
        for grant in getattr(message, "grants", ()):
            assert scheduler_pb2.Task.FromString(grant.task).id == grant.id


def test_the_example_keeps_its_own_rules() -> None:
    granted, credit = 0, 0
    kept: set[Any] = set()
    for sender, frame in FRAMES:
        if "hello" in frame:
            granted = credit = 0
            finished = {held["fence"] for held in frame["hello"].get("held", ()) if "FINISHED" in held["state"]}
            assert finished == kept
        if sender == "W":
            kept |= {report["fence"] for report in frame.get("reports", ())}
            counts = [int(count) for count in frame.get("credit", ())]
            assert all(count > credit for count in counts)
            credit = max([credit, *counts])
        else:
            granted += len(frame.get("grants", ()))
            assert granted <= credit
            kept -= set(frame.get("acknowledged", ()))
    assert kept == set()


def test_every_limit_is_looked_at() -> None:
    assert len(LIMITS) == PAGE.split("## Limits")[1].count("| `gowork.")


@pytest.mark.parametrize(("limit", "names"), LIMITS)
def test_limits_are_those_of_the_code(limit: str, names: list[tuple[str, str]]) -> None:
    told = [re.fullmatch(r"([\d,]+) ?(\w*)", part.strip()) for part in limit.split(";")]
    assert len(told) == len(names)
    for match, (module, name) in zip(told, names, strict=True):
        assert match is not None, limit
        number, unit = match.groups()
        value = getattr(importlib.import_module(module), name)
        assert int(number.replace(",", "")) * SCALES[unit] == value, name


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_the_check_is_on_the_page(rule: str) -> None:
    assert f"`{rule}`" in PAGE


def test_every_way_in_which_a_session_ends_is_on_the_page() -> None:
    codes = [commands.NAME_TAKEN, commands.TOO_MANY_SESSIONS, commands.LEASE_EXPIRED, commands.REPLACED]
    for reason in [
        *(code.reason for code in codes),
        "NOT_SERVING",
        "NOT_LEADING",
        "STORE_UNAVAILABLE",
        "SESSION_BEHIND",
        "NO_HELLO",
    ]:
        assert f"`{reason}`" in PAGE
    for code in codes:
        assert re.search(rf"\| {code.status}[^|]*`{code.reason}`", PAGE), code
