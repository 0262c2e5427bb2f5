"""A worker and a client go on while terms change, on one node and between two; the worker is a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clusters import STOP_SECONDS, kill, start

from gowork.client import AsyncClient
from gowork.leader import Settings
from gowork.leader._app.equipment import Equipment
from gowork.leader._app.node import Addresses, Node
from gowork.leader._app.term import Term
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.retention import Kept
from gowork.leader.store.sqlite import SqliteStore

TERMS = 20
#: How long the client and the test wait, in seconds: longer than a worker pauses before it reconnects.
PATIENCE = 60.0


class Leading:
    """A node, on which the test has terms lead."""

    def __init__(self, node: Node, counts: Counts, addresses: Addresses, folder: Path) -> None:
        self.node = node
        self.counts = counts
        self.addresses = addresses
        self.folder = folder

    @asynccontextmanager
    async def term(self) -> AsyncIterator[None]:
        """Has a new term lead for as long as the block lasts."""
        leads, ended = asyncio.Event(), asyncio.Event()
        term = Term(SqliteStore(self.folder / "leader.db"), Equipment(self.counts, Settings(), Kept()))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.node.lead(term, leads=leads.set, ended=[ended]))
            try:
                await leads.wait()
                yield
            finally:
                ended.set()


@asynccontextmanager
async def node(folder: Path) -> AsyncIterator[Leading]:
    """A node on free ports."""
    counts = Counts()
    listen: Any = {f"{name}_listen": "127.0.0.1:0" for name in ("cluster", "scheduler", "http")}
    made = Node(counts, reflection=False, **listen)
    async with made.serving(asyncio.Event()) as addresses:
        yield Leading(made, counts, addresses, folder)


@pytest.mark.parametrize("count", [1, 2])
async def test_what_a_worker_finishes_while_nobody_leads_is_reported_to_the_next_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    handlers = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([handlers, *filter(None, [os.environ.get("PYTHONPATH")])]))
    for name in ("begin", "end"):
        os.mkfifo(tmp_path / name)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(node(tmp_path)) for _ in range(count)]
        worker = start(
            "gowork-worker",
            f"--leader={','.join(each.addresses.cluster for each in nodes)}",
            "--import=terms_handlers",
            "--slots=1",
            "--runners=1",
            folder=tmp_path,
        )
        try:
            leaders = [each.addresses.scheduler for each in nodes]
            async with AsyncClient(leaders, timeout=PATIENCE, patience=PATIENCE) as client:
                await over_terms(nodes, client, tmp_path, worker)
        finally:
            kill(worker)
    # Nothing was lost, and nothing ran twice.
    assert (tmp_path / "runs").read_text().split() == [f"t{n}" for n in range(TERMS)]


async def over_terms(nodes: list[Leading], client: AsyncClient, folder: Path, worker: subprocess.Popen[str]) -> None:
    handle = None
    for n in range(TERMS):
        async with nodes[n % len(nodes)].term():
            if handle is not None:
                assert await handle.result(str, timeout=PATIENCE) == f"t{n - 1}"
                assert (await handle.get()).attempts_used == 1
            handle = await client.schedule(str(folder), id=f"t{n}", handler="told")
            # The open returns when the handler has opened its end: it runs.
            begin = await asyncio.to_thread((folder / "begin").open, "w")
        # Nobody leads, and the task ends.
        begin.write(f"t{n}")
        begin.close()
        assert await asyncio.to_thread((folder / "end").read_text) == f"t{n}"
    async with nodes[0].term():
        assert handle is not None
        assert await handle.result(str, timeout=PATIENCE) == f"t{TERMS - 1}"
        assert all(each.counts.reassigned == {} for each in nodes)
        assert all(each.counts.stale_reports == 0 for each in nodes)
        worker.send_signal(signal.SIGTERM)
        # In a thread, because on this loop the leader must hear that the worker leaves.
        assert await asyncio.to_thread(worker.wait, STOP_SECONDS) == 0
