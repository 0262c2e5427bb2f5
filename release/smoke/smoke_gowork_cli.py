"""The command line tells its version, and says in words that no leader answers."""

import socket
import subprocess
import sys
from pathlib import Path

from gowork.cli import __version__

program = Path(sys.executable).with_name("gowork")
told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
assert __version__ in told.stdout
subprocess.run([program, "protos", "--out", "protos"], check=True, timeout=60, stdout=subprocess.DEVNULL)
assert list(Path("protos").rglob("*.proto"))
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    failed = subprocess.run(
        [program, "--leader", address, "show", "some"], capture_output=True, text=True, check=False, timeout=120
    )
assert failed.returncode != 0
assert address in failed.stderr, failed.stderr
assert "Traceback" not in failed.stderr, failed.stderr
