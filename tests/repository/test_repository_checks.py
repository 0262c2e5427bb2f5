"""The checks that are programs of their own, run as tests, so that one command is the whole truth."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACT = "packages/gowork-proto/contract"


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def must_pass(*command: str) -> None:
    done = run(*command)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_lint_is_clean() -> None:
    must_pass(sys.executable, "-m", "ruff", "check", "--no-cache")


def test_format_is_kept() -> None:
    must_pass(sys.executable, "-m", "ruff", "format", "--check", "--diff", "--no-cache")


@pytest.mark.timeout(900)
def test_types_are_strict() -> None:
    must_pass(sys.executable, "-m", "mypy")


def test_layers_are_kept() -> None:
    # In a process of its own: it sets up logging, and so disables every logger that is there.
    must_pass(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")


@pytest.mark.tool("buf")
def test_protos_pass_buf_lint() -> None:
    must_pass("buf", "lint")


@pytest.mark.tool("buf")
def test_protos_keep_the_original_contract() -> None:
    must_pass("buf", "breaking", "--against", f"{CONTRACT}/go-work.binpb")


@pytest.mark.tool("buf")
def test_the_breaking_check_notices_a_renumbered_field(tmp_path: Path) -> None:
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    protos = tmp_path / "packages/gowork-proto/src"
    shutil.copytree(ROOT / "packages/gowork-proto/src", protos, ignore=shutil.ignore_patterns("*.py", "*.pyi"))
    leader = protos / "gowork/proto/cluster/v1/leader.proto"
    text = leader.read_text()
    assert text.count("string address = 2;") == 2
    leader.write_text(text.replace("string address = 2;", "string address = 22;"))
    done = run("buf", "breaking", "--against", str(ROOT / CONTRACT / "go-work.binpb"), cwd=tmp_path)
    assert done.returncode != 0
    assert 'Previously present field "2" with name "address"' in done.stdout


@pytest.mark.tool("buf")
def test_the_image_is_what_the_original_protos_give(tmp_path: Path) -> None:
    image = tmp_path / "go-work.binpb"
    must_pass("buf", "build", CONTRACT, "--exclude-source-info", "-o", str(image))
    assert image.read_bytes() == (ROOT / CONTRACT / "go-work.binpb").read_bytes()
