"""Switches logging off, because a history has all that the simulated leaders would log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_is_logged() -> Iterator[None]:
    """Switches logging off, because hundreds of full disks would fill the report."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
