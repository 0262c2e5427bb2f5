"""A leader starts on a new store, is ready, and stops cleanly."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

program = Path(sys.executable).with_name("gowork-leader")
listen = [f"--{name}-listen=127.0.0.1:0" for name in ("cluster", "scheduler", "http")]
process = subprocess.Popen(
    [program, *listen, f"--store=sqlite:///{Path.cwd() / 'gowork.db'}", "--print-addresses"],
    stdout=subprocess.PIPE,
    text=True,
)
with process:
    try:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        with urllib.request.urlopen(f"http://{addresses['http']}/readyz", timeout=30) as answer:
            assert answer.status == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
assert Path("gowork.db").is_file()
