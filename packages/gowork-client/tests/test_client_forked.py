"""A client that was used before a fork says so in the child, and harms nothing there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

#: Uses a client, forks, and has the child do what follows.
BLOCKING = """
import os, sys
from gowork.client import Client, ClientForked

def begin(client):
    client.schedule("p")

def try_again(client):
    for call in (lambda: client.get("a"), lambda: client.schedule("p"), lambda: client.wait(["a"]),
                 lambda: list(client.schedule_many(["p"])), lambda: list(client.tasks()), lambda: next(client.watch())):
        try:
            call()
        except ClientForked as error:
            assert "Make a client in each process, after the fork" in str(error), error
            assert isinstance(error, RuntimeError)
        else:
            sys.exit("no error")
    client.close()

def make():
    return Client(sys.argv[1], timeout=60)

def fork(client, used):
    child = os.fork()
    if not child:
        code = 1
        try:
            if used:
                try_again(client)
                client = make()
            begin(client)
            client.close()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
USED = """
client = make()
begin(client)
assert fork(client, used=True) == 0
begin(client)
client.close()
"""
UNUSED = """
assert fork(make(), used=False) == 0
"""
ASYNC = """
import asyncio, os, sys
from gowork.client import AsyncClient, ClientForked

client = AsyncClient(sys.argv[1], timeout=60)

async def used():
    await client.schedule("p")

async def child():
    try:
        await client.get("a")
    except ClientForked:
        await client.close()
        return
    sys.exit("no error")

asyncio.run(used())
pid = os.fork()
if not pid:
    code = 1
    try:
        asyncio.run(child())
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@pytest.mark.parametrize("program", [BLOCKING + USED, BLOCKING + UNUSED, ASYNC], ids=["used", "unused", "async"])
def test_a_client_that_was_used_before_a_fork_says_so_after_it(scripted: Any, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, scripted.address], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
