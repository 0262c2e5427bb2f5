"""What every test folder of the repository shares: tests that need a program say so by `@pytest.mark.tool("name")`."""

from __future__ import annotations

import os
import shutil

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose program is missing, with the reason; in CI it fails, so that nothing goes unchecked there."""
    names = [name for marker in item.iter_markers("tool") for name in marker.args]
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    reason = f"not on PATH: {', '.join(missing)}; CONTRIBUTING.md tells how to install it"
    if os.environ.get("CI"):
        pytest.fail(f"CI must not skip this test. {reason}", pytrace=False)
    pytest.skip(reason)
