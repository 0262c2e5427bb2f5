"""Lists the licences of what gowork needs at run time, and asks for known weaknesses of these versions.

It fails on a licence that licences.toml does not allow, on a known weakness, and when nothing can be known: the service
is asked first for weaknesses of a version that has some.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ALLOWED = Path(__file__).with_name("licences.toml")
#: A version of which the service must know weaknesses. If it knows none, its silence about others says nothing.
KNOWN_TO_BE_WEAK = "urllib3==1.24.1"
#: Seconds that the service has for each answer.
ANSWER_SECONDS = 30


def main(python: str, bill: str) -> int:
    """Checks an environment.

    Args:
        python: its Python.
        bill: the file that the bill of materials is written to, as CycloneDX JSON.
    """
    packages = installed(python)
    for package in packages:
        print(f"{package['Name']:42} {package['Version']:18} {package['License']}")
    faults = licence_faults(packages, tomllib.loads(ALLOWED.read_text()))
    if not is_service_heard(KNOWN_TO_BE_WEAK):
        faults.append(
            f"no advisories: the service does not tell of {KNOWN_TO_BE_WEAK}, which is known to be weak. It cannot be "
            "reached, or something else answers in its place. NOTHING WAS AUDITED"
        )
    else:
        faults += weaknesses(packages, Path(bill))
    for fault in faults:
        print(f"audit: {fault}", file=sys.stderr)
    return 1 if faults else 0


def installed(python: str) -> list[dict[str, str]]:
    """Returns name, version and licence of each package of an environment, except gowork's own."""
    command = ["pip-licenses", "--python", python, "--from=mixed", "--format=json"]
    listed: list[dict[str, str]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [package for package in listed if not package["Name"].startswith("gowork")]


def licence_faults(packages: Iterable[Mapping[str, str]], rules: Mapping[str, Any]) -> list[str]:
    """Returns a line for each package whose licence is not allowed."""
    faults = []
    for package in packages:
        parts = re.split(r" OR | AND |; ", package["License"].strip("()"))
        if package["Name"] not in rules["exceptions"] and not set(parts) <= set(rules["allowed"]):
            faults.append(
                f"{package['Name']} has the licence {package['License']!r}, which {ALLOWED.name} does not allow"
            )
    return faults


def is_service_heard(weak: str) -> bool:
    """Whether the advisory service tells of weaknesses of this version."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        _ask([weak], "--format=json", f"--output={answer}")
        try:
            return any(dependency.get("vulns") for dependency in json.loads(answer.read_text())["dependencies"])
        except (OSError, ValueError, KeyError):
            return False


def weaknesses(packages: Iterable[Mapping[str, str]], bill: Path) -> list[str]:
    """Prints what is known of these packages, and writes the bill of materials."""
    pinned = [f"{package['Name']}=={package['Version']}" for package in packages]
    # Strict: a package that the service does not know is a fault, and not left out.
    strict = _ask(pinned, "--strict")
    print(strict.stdout + strict.stderr)
    _ask(pinned, "--format=cyclonedx-json", f"--output={bill}")
    return ["a version is known to be weak, or is not known to the service; see above"] if strict.returncode else []


def _ask(pinned: Iterable[str], *options: str) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pinned))
        file.flush()
        command = ["pip-audit", "--disable-pip", "--no-deps", f"--timeout={ANSWER_SECONDS}", "-r", file.name, *options]
        return subprocess.run(command, check=False, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
