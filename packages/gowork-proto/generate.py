"""Generates the Python of the protos, its stubs and the descriptors for reflection, beside the protos.

Run by `nox -s protos`, with grpcio-tools 1.76: its gencode (protobuf 6.31) runs on that protobuf major and the next.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).parent / "src"
PROTOS = SOURCE / "gowork" / "proto"


def main() -> int:
    files = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    includes = [f"-I{SOURCE}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    outputs = [f"--{kind}_out={SOURCE}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    descriptors = [f"--descriptor_set_out={PROTOS / 'descriptors.binpb'}", "--include_imports", "--include_source_info"]
    return protoc.main(["protoc", *includes, *outputs, *descriptors, *files])


if __name__ == "__main__":
    sys.exit(main())
