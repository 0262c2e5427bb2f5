"""A handler runs as on a worker, and the worker's command tells its version and its options."""

import subprocess
import sys
from pathlib import Path

from gowork.worker import Context, __version__, handler
from gowork.worker.testing import run_handler


@handler
def double(ctx: Context, number: int) -> int:
    """Doubles a number."""
    return 2 * number


assert run_handler(double, 21).result == 42
program = Path(sys.executable).with_name("gowork-worker")
told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
assert __version__ in told.stdout
subprocess.run([program, "--help"], stdout=subprocess.DEVNULL, check=True, timeout=60)
