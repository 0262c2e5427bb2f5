"""Makes a script of a page: what its reader types, in order, in as many terminals as the page says.

A command that serves until it is stopped runs in the background, and the next one waits until it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from site_code import Block

_SOME_WORKER = "gowork members --output jsonl | grep -q LIVE"
#: {command that runs until it is stopped: a command that succeeds as soon as it serves}.
SERVERS = {
    "gowork up": _SOME_WORKER,
    "gowork-leader": "gowork stats",
    "../worker/bin/gowork-worker": _SOME_WORKER,
    "gowork-worker --import shop.worker": _SOME_WORKER,
    "gowork-worker --import handlers": _SOME_WORKER,
    "gunicorn mysite.wsgi": "curl -s 127.0.0.1:8000",
    "uvicorn app:app": "curl -s 127.0.0.1:8000",
}
#: What the tutorial's handler answers to each of its tasks, by the command line, the program and grpcurl.
SERVED = ("2 for Ada", "1 for Edsger", "1 for Grace", "1 for Alan", "1 for Barbara")
#: How a block says that it goes to the end of a file that is there.
_AT_ITS_END = ", at its end"


def script(blocks: Iterable[Block], replaced: Mapping[str, str]) -> str:
    """The page as a script of bash, which ends with an error as soon as one of its commands does.

    A leader alone takes the place of what was started before it, as in the tutorial.

    Args:
        blocks: the code of the page. Python begins with the name of its file.
        replaced: {command: what is run instead}.
    """
    lines = [
        "set -ex",
        # A server that ends early fails the script. So does one that ends with neither 0 nor $ended, if that is set.
        'serve() { "$@" & servers="$! $servers"; }',
        'stop() { for server in $servers; do kill $server; wait $server || [ $? = "$ended" ]; done; servers=; }',
        "trap '[ -z \"$servers\" ] || kill $servers' EXIT",
    ]
    for block in blocks:
        if block.not_run:
            continue
        if block.language == "python":
            lines.append(_written(block.text))
        for line in block.text.strip().splitlines() if block.language == "sh" else ():
            command = replaced.get(line, line)
            if line not in SERVERS:
                lines.append(command)
                continue
            if line == "gowork-leader":
                lines.append("stop")
            ready = f"until {SERVERS[line]}; do kill -0 $servers; done >&2"
            lines += [f"serve {command}", ready]
    return "\n".join([*lines, "trap - EXIT", "stop", ""])


def _written(text: str) -> str:
    name = text.partition("\n")[0].removeprefix("# ")
    into = ">>" if name.endswith(_AT_ITS_END) else ">"
    return f"cat {into} {name.removesuffix(_AT_ITS_END)} <<'PYTHON'\n{text}PYTHON"
