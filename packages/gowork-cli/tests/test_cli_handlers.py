"""What `gowork handlers` says of payloads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from gowork.cli.options import CommonOptions
from gowork.cli.root import cli
from gowork.client import HandlerInfo, HandlerVersion


class FakeClient:
    """A leader whose workers have one handler, without an annotated parameter."""

    def handlers(self, name: str) -> list[HandlerInfo]:
        return [HandlerInfo("echo", (HandlerVersion("echo", "1", 1, ("w",), True, takes_payload=False),))]


@pytest.mark.parametrize("words", [[], ["echo"]])
def test_a_handler_without_an_annotated_payload_reads_it_itself(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def client(self: CommonOptions) -> Iterator[Any]:
        yield FakeClient()

    monkeypatch.setattr(CommonOptions, "client", client)
    told = CliRunner().invoke(cli, ["handlers", *words])
    assert told.exit_code == 0
    assert "read by the handler itself" in told.stdout
