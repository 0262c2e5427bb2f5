"""The plugin that every worker has. Its one handler returns its payload, so that a fresh cluster can run
something.
"""

from __future__ import annotations

import base64
from typing import Any

from gowork.worker._core.context import Context
from gowork.worker._core.handlers import handler


@handler("echo")
def echo(ctx: Context) -> dict[str, Any]:
    """Returns the payload, the worker's name and the attempt's number. A binary payload is in `data`, in base64."""
    answer: dict[str, Any] = {"payload": ctx.payload, "worker": ctx.worker, "attempt": ctx.attempt}
    if ctx.data:
        answer["data"] = base64.b64encode(ctx.data).decode()
    return answer
