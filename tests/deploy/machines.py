"""What the units of deploy/systemd run on each of three machines, read as systemd reads them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
#: {name: address}, as the shipped files have them.
MACHINES = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
UNITS = ("gowork-etcd", "gowork-leader", "gowork-worker")


def settings(unit: str) -> dict[str, list[str]]:
    """What a unit sets: {key: values, in their order}."""
    text = (FOLDER / f"{unit}.service").read_text().replace("\\\n", "")
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).append(value.strip())
    return found


def environment(machine: str) -> dict[str, str]:
    """The variables of the units on a machine."""
    text = "".join((FOLDER / name).read_text() for name in ("cluster.env", "machine.env"))
    found = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    return found | {"MACHINE_NAME": machine, "MACHINE_ADDRESS": MACHINES[machine]}


def command(unit: str, machine: str) -> list[str]:
    """The words of the command that a unit runs on a machine."""
    (line,) = settings(unit)["ExecStart"]
    variables = environment(machine)
    return [re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word) for word in shlex.split(line)]
