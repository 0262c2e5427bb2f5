"""Fixtures to run handlers and clusters. Nothing of gowork is imported before a test uses one.

The fixtures are plain ones, so that they serve tests of every kind: plain, and async ones of pytest-asyncio and anyio.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gowork.testing import Cluster
    from gowork.worker.testing import FakeClock, Outcome

_MARKER = "gowork"


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(**options): options of run_handler for every run of the test, such as imports, lifespans or state.",
    )


@pytest.fixture
def run_handler(request: pytest.FixtureRequest) -> Callable[..., Outcome]:
    """Runs a handler: gowork.worker.testing.run_handler, with the options of the marker `gowork`."""
    from gowork.worker.testing import run_handler

    return partial(run_handler, **_options(request))


@pytest.fixture
def run_handler_async(request: pytest.FixtureRequest) -> Callable[..., Awaitable[Outcome]]:
    """Does as `run_handler`, for async tests: gowork.worker.testing.run_handler_async."""
    from gowork.worker.testing import run_handler_async

    return partial(run_handler_async, **_options(request))


@pytest.fixture
def fake_clock() -> FakeClock:
    """Returns a clock for runs, which begins at 0: gowork.worker.testing.FakeClock."""
    from gowork.worker.testing import FakeClock

    return FakeClock()


@pytest.fixture
def gowork_cluster() -> Iterator[Callable[..., Cluster]]:
    """Starts clusters: it takes what gowork.testing.Cluster takes, and ends them after the test.

    In an async test, make an AsyncClient for the cluster's `address`.
    """
    from gowork.testing import Cluster

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Cluster(**options))


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Returns the options of all markers. The marker of a function counts more than that of its class or module."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(_MARKER))):
        options |= marker.kwargs
    return options
