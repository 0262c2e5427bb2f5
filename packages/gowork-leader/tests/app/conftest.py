"""Puts the helpers of this folder, and those for calling a leader, on the import path.

Some tests get an event loop whose time jumps.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from jumping_loop import JumpingLoop

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "rpc")]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name == "test_app_presence.py":
        return {"jumping": JumpingLoop}
    return {"usual": asyncio.new_event_loop}
