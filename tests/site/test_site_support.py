"""The support matrix says what the packages and the code say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from gowork.cli import checkup, own_machine
from gowork.leader.log._etcd import client as etcd
from gowork.leader.log._postgresql import tables
from gowork.leader.store._sqlite_schema import APPLICATION_ID, FORMAT, FORMAT_LOGGED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/support.md").read_text()
LEADER = tomllib.loads((ROOT / "packages/gowork-leader/pyproject.toml").read_text())["project"]


def row(name: str) -> str:
    (found,) = re.findall(rf"^\| {name}[^|]*\|([^|]*\|[^|]*)\|$", PAGE, re.MULTILINE)
    return str(found)


def test_the_matrix_is_of_this_version() -> None:
    minor = LEADER["version"].rpartition(".")[0]
    assert f"For version {minor} of all packages" in PAGE


def test_this_version_has_a_page_on_the_upgrade_to_it() -> None:
    minor = LEADER["version"].rpartition(".")[0]
    page = (ROOT / f"docs/upgrade-{minor}.md").read_text()
    headings = ["Before", "In which order", "What to look at", "The way back"]
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == headings
    assert f"newer format, {FORMAT}," in page


def test_the_versions_of_python_are_those_of_the_packages() -> None:
    named = {line.rpartition(" ")[2] for line in LEADER["classifiers"] if re.search(r"Python :: 3\.\d+$", line)}
    assert set(re.findall(r"3\.\d+", row("Python").partition("|")[2])) == named
    assert f"{LEADER['requires-python'].removeprefix('>=')} or later" in row("Python")


def test_the_bounds_of_libraries_are_those_of_the_packages() -> None:
    proto = tomllib.loads((ROOT / "packages/gowork-proto/pyproject.toml").read_text())["project"]
    for name, label in (("apsw", "SQLite"), ("grpcio", "grpcio"), ("protobuf", "protobuf")):
        (bounds,) = [line for line in LEADER["dependencies"] + proto["dependencies"] if line.startswith(f"{name}>=")]
        lowest, _, bound = bounds.partition(">=")[2].partition(",<")
        assert f"{lowest} or later" in row(label)
        if name != "apsw":
            assert f"below {bound}" in row(label)


def test_the_oldest_servers_of_logs_are_those_that_the_code_takes() -> None:
    assert f"{tables._OLDEST_VERSION // 10_000} or later" in row("PostgreSQL")
    assert "version 3.4 or newer is needed" in Path(str(etcd.__file__)).read_text()
    assert "3.4 or later" in row("etcd")


def test_the_doctor_checks_what_the_matrix_says() -> None:
    versions = re.findall(r"3\.(\d+)", row("Python").partition("|")[2])
    assert [each[1] for each in checkup.PYTHONS] == [min(map(int, versions)), max(map(int, versions))]
    assert checkup.STORE_FORMAT_MAX == FORMAT_LOGGED
    assert APPLICATION_ID.to_bytes(4, "big") == own_machine._APPLICATION
    packages = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    assert set(own_machine.PACKAGES) == packages
