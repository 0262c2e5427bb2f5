"""A newcomer's first three commands: `gowork up`, `gowork add` and `gowork show`."""

import json
import subprocess
import sys
from pathlib import Path

program = Path(sys.executable).with_name("gowork")
listen = [f"--{name}-listen=127.0.0.1:0" for name in ("cluster", "scheduler", "http")]
up = subprocess.Popen(
    [program, "up", *listen, "--workers-http-port=0", "--data-dir=cluster", "--print-addresses"],
    stdout=subprocess.PIPE,
    text=True,
)


def gowork(*arguments: str) -> str:
    """What `gowork` prints for these arguments."""
    command = [program, "--leader", addresses["scheduler"], *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=90).stdout


with up:
    try:
        assert up.stdout is not None
        addresses = json.loads(up.stdout.readline())
        result = gowork("add", "--handler", "echo", "first", "hello", "--wait")
        assert "hello" in result, result
        shown = gowork("show", "first")
        assert "COMPLETED" in shown, shown
        assert "echo" in shown, shown
        up.terminate()
        assert up.wait(60) == 0
    finally:
        if up.poll() is None:
            # It ends leader and worker when it is told to, and not when it is killed.
            up.terminate()
            up.wait(60)
