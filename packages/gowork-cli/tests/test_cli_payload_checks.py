"""What a command says of payloads before it sends them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gowork.cli.group import Refused
from gowork.cli.payload_checks import WARNINGS_MAX, PayloadChecks
from gowork.client import InvalidArgument


class FakeClient:
    """No worker has any handler."""

    def check_payload(self, payload: object, *, handler: str, plugin_version: str) -> str:
        return f"no worker has the handler {handler!r} now{plugin_version}"


class RefusingClient:
    """No handler takes anything."""

    def check_payload(self, payload: object, *, handler: str, plugin_version: str) -> str:
        raise InvalidArgument.of("payload", "not one of 'a\u202eb\x1b[31m'")


def test_what_a_schema_or_a_name_says_is_shown_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = FakeClient()
    PayloadChecks(client).check("x", "h", "\u202e\x1b[31m")
    assert capsys.readouterr().err == "gowork: no worker has the handler 'h' now\\u202e\\x1b[31m\n"
    refusing: Any = RefusingClient()
    with pytest.raises(Refused, match=re.escape(r"'a\u202eb\x1b[31m'")) as caught:
        PayloadChecks(refusing).check("x", "h")
    assert caught.value.message.isprintable()


def test_a_bounded_number_of_handlers_is_warned_of_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = FakeClient()
    checks = PayloadChecks(client)
    for number in range(3 * WARNINGS_MAX):
        checks.check("x", f"h{number // 2}")
    warned = capsys.readouterr().err.splitlines()
    assert warned == [f"gowork: no worker has the handler 'h{number}' now" for number in range(WARNINGS_MAX)]
