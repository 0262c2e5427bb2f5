"""Switches logging off, because a history has all that the simulated leaders would log.

It gives tests of the log their event loops, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from random import Random

import pytest
from sim_loop import SimLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name.startswith("test_sim_etcd_"):
        return {"simulated": lambda: SimLoop(Random(1))}
    return {"usual": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def nothing_is_logged() -> Iterator[None]:
    """Switches logging off, because hundreds of full disks would fill the report."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
