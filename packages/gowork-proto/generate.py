"""Generates the Python of the protos, its stubs and the descriptors for reflection, beside the protos.

`nox -s protos` runs it, with grpcio-tools 1.76, whose code is for protobuf 6.31, and runs on protobuf 6 and 7.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc


def main(source: Path) -> int:
    """Runs the compiler once for everything, and returns its exit code.

    Args:
        source: the folder that holds gowork/proto.
    """
    protos = source / "gowork" / "proto"
    files = sorted(str(path) for path in protos.rglob("*.proto"))
    includes = [f"-I{source}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    outputs = [f"--{kind}_out={source}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    descriptors = [f"--descriptor_set_out={protos / 'descriptors.binpb'}", "--include_imports", "--include_source_info"]
    return protoc.main(["protoc", *includes, *outputs, *descriptors, *files])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "src"))
