from __future__ import annotations

import subprocess
import sys

#: What only a running worker needs.
HEAVY = ("grpc", "google.protobuf", "opentelemetry", "prometheus_client", "gowork.proto.worker.v1.session_pb2", "click")


def loaded_by(code: str) -> set[str]:
    output = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], check=True, capture_output=True, text=True
    ).stdout
    return set(output.split())


def test_import_for_writing_handlers_loads_nothing_heavy() -> None:
    code = "from gowork.worker import Cancel, Context, Fail, Retry, Snooze, Worker, handler\nWorker(handlers=[])"
    assert not loaded_by(code) & set(HEAVY)


def test_runner_does_not_load_grpc() -> None:
    assert not loaded_by("import gowork.worker._runner.main") & {"grpc", "prometheus_client", "click"}


def test_supervisor_does_not_load_plugins() -> None:
    assert "gowork_plugin_shell" not in loaded_by("import gowork.worker._app.daemon")
