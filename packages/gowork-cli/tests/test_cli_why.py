"""What `gowork why` prints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from gowork.cli.options import CommonOptions
from gowork.cli.root import cli
from gowork.client import Explanation, TaskStatus, WaitCode, WaitReason

WILD = "failed: \x1b]0;title\x07 \x9b31m \u202ered [bold]x"


class FakeClient:
    """A leader whose task failed with a wild message."""

    def explain(self, id: str, *, verbose: bool) -> Explanation:
        reason = WaitReason(WaitCode.OTHER, WILD, f"look at {WILD}", datetime.now(UTC))
        return Explanation(id, TaskStatus.ERROR, (reason,), (), 0)


def test_reasons_are_printed_without_control_characters_and_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def client(self: CommonOptions) -> Iterator[Any]:
        yield FakeClient()

    monkeypatch.setattr(CommonOptions, "client", client)
    told = CliRunner().invoke(cli, ["why", "t"])
    assert told.exit_code == 0
    assert all(line.isprintable() for line in told.stdout.splitlines())
    assert told.stdout.count("red [bold]x") == 2
