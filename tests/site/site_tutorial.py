"""Makes a script of the tutorial: what its reader types, in order, in as many terminals as the page says.

A command that serves until it is stopped runs in the background, and the next one waits until it serves. The leader
alone takes the place of `gowork up`, as on the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from site_code import Block

#: {command that runs until it is stopped: a command that succeeds as soon as it serves}.
SERVERS = {
    "gowork up": "gowork members --output jsonl | grep -q LIVE",
    "gowork-leader": "gowork stats",
    "../worker/bin/gowork-worker": "gowork members --output jsonl | grep -q LIVE",
}
#: What the handler of the page answers to each of its tasks, by the command line, the program and grpcurl.
SERVED = ("2 for Ada", "1 for Edsger", "1 for Grace", "1 for Alan", "1 for Barbara")


def script(blocks: Iterable[Block], replaced: Mapping[str, str]) -> str:
    """The tutorial as a script of bash, which ends with an error as soon as one of its commands does.

    Args:
        blocks: the code of the page.
        replaced: {command: what is run instead}.
    """
    lines = [
        "set -ex",
        # A server that ends early fails the script; so does one that does not end with 0.
        'serve() { "$@" & servers="$! $servers"; }',
        "stop() { for server in $servers; do kill $server; wait $server; done; servers=; }",
        "trap '[ -z \"$servers\" ] || kill $servers' EXIT",
    ]
    for block in blocks:
        if block.not_run:
            continue
        if block.language == "python":
            name = block.text.partition("\n")[0].removeprefix("# ")
            lines.append(f"cat > {name} <<'PYTHON'\n{block.text}PYTHON")
        for line in block.text.strip().splitlines() if block.language == "sh" else ():
            command = replaced.get(line, line)
            if line not in SERVERS:
                lines.append(command)
                continue
            if line == "gowork-leader":
                lines.append("stop")
            ready = f"until {SERVERS[line]}; do kill -0 $servers; done >&2"
            lines += [f"serve {command}", ready]
    return "\n".join([*lines, "trap - EXIT", "stop", "ls dist", ""])
