"""Gives the tests of the log in memory an event loop whose time jumps."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from jumping_loop import JumpingLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name == "test_log_memory.py":
        return {"jumping": JumpingLoop}
    return {"usual": asyncio.new_event_loop}
