"""What a command says of payloads before it sends them."""

from __future__ import annotations

from typing import Any

import pytest

from gowork.cli.payload_checks import WARNINGS_MAX, PayloadChecks


class FakeClient:
    """No worker has any handler."""

    def check_payload(self, payload: object, *, handler: str, plugin_version: str) -> str:
        return f"no worker has the handler {handler!r} now{plugin_version}"


def test_a_bounded_number_of_handlers_is_warned_of_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = FakeClient()
    checks = PayloadChecks(client)
    for number in range(3 * WARNINGS_MAX):
        checks.check("x", f"h{number // 2}")
    warned = capsys.readouterr().err.splitlines()
    assert warned == [f"gowork: no worker has the handler 'h{number}' now" for number in range(WARNINGS_MAX)]
