"""The small HTTP listener for probes and metrics."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from gowork.rpc.channels import AddressError
from gowork.rpc.http import HttpListener, probe


@pytest.fixture
def state() -> dict[str, bool]:
    return {"ready": True}


@pytest.fixture
def listener(state: dict[str, bool]) -> Iterator[HttpListener]:
    page = probe(lambda: (state["ready"], "leading" if state["ready"] else "loading the store"))
    with HttpListener("127.0.0.1:0", {"/readyz": page}) as listener:
        yield listener


def get(listener: HttpListener, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(listener.address, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_probe_answers_what_its_check_says(listener: HttpListener, state: dict[str, bool]) -> None:
    assert get(listener, "/readyz") == (200, "leading\n")
    state["ready"] = False
    assert get(listener, "/readyz?verbose") == (503, "loading the store\n")


def test_an_unknown_path_names_the_known_ones(listener: HttpListener) -> None:
    assert get(listener, "/readyz/more") == (404, "pages: /readyz\n")


def test_a_silent_client_holds_up_nobody_else(listener: HttpListener) -> None:
    host, port = listener.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))):
        assert get(listener, "/readyz")[0] == 200


def test_a_taken_port_is_an_error_at_once(listener: HttpListener) -> None:
    with pytest.raises(OSError, match="in use"):
        HttpListener(listener.address, {})


def test_an_address_of_another_form_is_refused() -> None:
    with pytest.raises(AddressError, match="HTTP address"):
        HttpListener("9464", {})
