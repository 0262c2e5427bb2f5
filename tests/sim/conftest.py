"""What the simulated leaders log is in their histories."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_is_logged() -> Iterator[None]:
    """Full disks by the hundred would fill the report."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
