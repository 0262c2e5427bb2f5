"""Generates the Python of the protos, its stubs and the descriptors for reflection, beside the protos.

Run by `nox -s protos`, with grpcio-tools 1.76: its gencode (protobuf 6.31) runs on that protobuf major and the next.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc


def main(source: Path) -> int:
    """Runs the compiler once for everything, and answers its exit code.

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
