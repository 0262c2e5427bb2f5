"""The command `gowork protos`: what it writes is the contract, and other tools read it."""

from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf import descriptor_pb2

from gowork.cli.root import cli

FILES = [
    "gowork/proto/cluster/v1/leader.proto",
    "gowork/proto/scheduler/v1/scheduler.proto",
    "gowork/proto/worker/v1/session.proto",
    "gowork/proto/worker/v1/worker.proto",
]


def write(folder: Path) -> Result:
    return CliRunner().invoke(cli, ["protos", "--out", str(folder)])


def test_the_contracts_protos_are_written_as_they_are_served(tmp_path: Path) -> None:
    result = write(tmp_path / "new")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / "new" / name) for name in [*FILES, "buf.yaml"]]
    for name in FILES:
        served = resources.files("gowork.proto").joinpath(name.removeprefix("gowork/proto/"))
        assert (tmp_path / "new" / name).read_bytes() == served.read_bytes()


def test_every_proto_that_is_installed_is_written(tmp_path: Path) -> None:
    write(tmp_path)
    installed = {file.name for file in descriptors() if file.name.startswith("gowork/")}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.proto")} == installed


def descriptors() -> list[descriptor_pb2.FileDescriptorProto]:
    image = resources.files("gowork.proto").joinpath("descriptors.binpb").read_bytes()
    return list(descriptor_pb2.FileDescriptorSet.FromString(image).file)


@pytest.mark.tool("buf")
def test_buf_builds_and_lints_what_was_written(tmp_path: Path) -> None:
    write(tmp_path)
    image = tmp_path / "image.binpb"
    for command in (["build", "-o", str(image)], ["lint"]):
        done = subprocess.run(["buf", *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    packages = {file.package for file in descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file}
    assert packages == {"cluster.v1", "scheduler.v1", "worker.v1"}


def test_a_buf_yaml_of_the_users_own_stays(tmp_path: Path) -> None:
    (tmp_path / "buf.yaml").write_text("version: v2\n")
    result = write(tmp_path)
    assert result.exit_code == 0
    assert (tmp_path / "buf.yaml").read_text() == "version: v2\n"
    assert "buf.yaml was there and is kept" in result.stderr


def test_it_can_be_written_again_over_older_protos(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / FILES[0]).write_text("an older one")
    result = write(tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "service LeaderService" in (tmp_path / FILES[0]).read_text()


def test_what_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "gowork").write_text("a file")
    result = write(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path / "gowork") in result.stderr
    assert result.stderr.count("\n") == 1
