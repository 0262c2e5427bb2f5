"""The contract's checks fail when they should. `nox -s contract` runs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACT = "packages/gowork-proto/contract"


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def must_pass(*command: str) -> None:
    done = run(*command)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


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
