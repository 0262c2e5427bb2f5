"""The table of weights has a row for each package, and is compared with what is measured."""

from __future__ import annotations

from pathlib import Path

from release_papers import packages
from release_weights import Weight, faults_of_table, rows, table, weigh

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/releases.md").read_text()
WEIGHTS = {"gowork-all": Weight(40_000_000, 30), "gowork-proto": Weight(16_000_000, 4)}


def test_the_page_weighs_each_package() -> None:
    assert set(rows(PAGE)) == set(packages(ROOT))


def test_the_client_alone_stays_smaller_than_the_whole() -> None:
    weights = rows(PAGE)
    assert weights["gowork-client"].dependencies <= 12
    assert weights["gowork-client"].installed_bytes < weights["gowork-all"].installed_bytes * 0.75


def test_a_table_that_is_measured_again_is_right_within_its_tolerance() -> None:
    page = table(WEIGHTS)
    assert page.splitlines()[2] == "| gowork-proto | 16.0 MB | 4 |"
    assert rows(page) == WEIGHTS
    grown = {"gowork-all": Weight(44_000_000, 33), "gowork-proto": Weight(16_000_000, 5)}
    assert list(faults_of_table(page, grown)) == []


def test_a_row_that_is_missing_or_far_from_what_is_measured_is_a_fault() -> None:
    grown = {"gowork-all": Weight(80_000_000, 30), "gowork-proto": Weight(16_000_000, 6), "gowork-cli": Weight(1, 1)}
    assert list(faults_of_table(table(WEIGHTS), grown)) == [
        "gowork-all has 80.0 MB, and the table says 40.0",
        "gowork-proto has 6.0 other packages, and the table says 4.0",
        "gowork-cli is not in the table",
    ]


def test_an_environment_weighs_what_its_packages_hold_without_bytecode(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.13/site-packages"
    for name, size in (
        ("some/a.py", 100),
        ("some/__pycache__/a.pyc", 1_000),
        ("some-1.0.dist-info/METADATA", 10),
        ("needed.so", 500),
        ("needed-2.0.dist-info/METADATA", 10),
        ("pip/a.py", 1_000),
        ("pip-25.0.dist-info/METADATA", 1_000),
    ):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(b"x" * size)
    assert weigh(tmp_path) == Weight(620, 1)
