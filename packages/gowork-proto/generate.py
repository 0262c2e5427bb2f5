"""Generates the Python of the protos and its stubs beside them, and for gowork.proto the descriptors for reflection.

`nox -s protos` runs it, with grpcio-tools 1.76, whose code is for protobuf 6.31, and runs on protobuf 6 and 7.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

_PACKAGES = Path(__file__).parents[1]


def main(proto: Path, leader: Path) -> int:
    """Runs the compiler for each package that has protos, and returns its first exit code that is not 0.

    Args:
        proto: the folder that holds gowork/proto.
        leader: the folder that holds gowork/leader.
    """
    protos = proto / "gowork" / "proto"
    descriptors = [f"--descriptor_set_out={protos / 'descriptors.binpb'}", "--include_imports", "--include_source_info"]
    return _compile(proto, protos, *descriptors) or _compile(leader, leader / "gowork" / "leader")


def _compile(source: Path, protos: Path, *more: str) -> int:
    files = sorted(str(path) for path in protos.rglob("*.proto"))
    includes = [f"-I{source}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    outputs = [f"--{kind}_out={source}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    return int(protoc.main(["protoc", *includes, *outputs, *more, *files]))


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(folders or (_PACKAGES / "gowork-proto" / "src", _PACKAGES / "gowork-leader" / "src"))))
