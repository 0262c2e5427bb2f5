"""Gives these tests an event loop whose time jumps."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from jumping_loop import JumpingLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"jumping": JumpingLoop}
