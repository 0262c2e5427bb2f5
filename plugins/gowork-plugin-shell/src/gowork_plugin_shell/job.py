"""The payload of a shell task, and its result."""

from __future__ import annotations

import signal

import msgspec

#: Bytes that are kept of each output, when the task names no number and at most: both of them, as JSON, must fit into
#: a result.
OUTPUT_BYTES_DEFAULT = 64 << 10
OUTPUT_BYTES_MAX = 400 << 10


class ShellJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The payload: JSON with these fields. Only `command` is needed."""

    #: The program and its arguments; with `shell`, one line for /bin/sh.
    command: list[str] | str
    #: Added to the environment of the worker.
    env: dict[str, str] = {}
    #: The working directory; the worker's own when None.
    cwd: str | None = None
    #: What the command reads.
    stdin: str = ""
    #: Let /bin/sh interpret the command.
    shell: bool = False
    #: Bytes kept of standard output, and of standard error. A longer text keeps its beginning and its end.
    output_bytes_max: int = OUTPUT_BYTES_DEFAULT
    #: Whether an exit code other than 0 fails the task.
    check: bool = True

    def __post_init__(self) -> None:
        """Raises:
        ValueError: for fields that do not go together.
        """
        if self.shell and not isinstance(self.command, str):
            raise ValueError("command: with shell it is one line of text")
        if not self.shell and isinstance(self.command, str):
            raise ValueError('command: a list, as in ["sort", "-n"]; a line of text needs "shell": true')
        if not self.command or not self.command[0]:
            raise ValueError("command: it is empty")
        if not 0 <= self.output_bytes_max <= OUTPUT_BYTES_MAX:
            raise ValueError(f"output_bytes_max: 0 to {OUTPUT_BYTES_MAX}, not {self.output_bytes_max}")
        texts = [*self.command, *self.env, *self.env.values(), self.cwd or ""]
        if any("\0" in text for text in texts) or any("=" in name or not name for name in self.env):
            raise ValueError("command, env and cwd have no NUL characters, and names in env no equals sign")

    @property
    def arguments(self) -> list[str]:
        """What is executed."""
        return ["/bin/sh", "-c", self.command] if isinstance(self.command, str) else self.command


class ShellResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result. Bytes that are no UTF-8 are replaced."""

    #: Negative: the number of the signal that ended the command.
    exit_code: int
    stdout: str
    stderr: str
    #: Whether something was left out of the middle.
    stdout_truncated: bool
    stderr_truncated: bool
    #: How long it ran.
    seconds: float


class CommandFailed(Exception):
    """The command ended with another exit code than 0."""

    def __init__(self, result: ShellResult) -> None:
        super().__init__(_words(result))
        self.result = result


def _words(result: ShellResult) -> str:
    if result.exit_code >= 0:
        text = f"exit code {result.exit_code}"
    else:
        known = {number.value: number.name for number in signal.Signals}
        text = f"killed by signal {-result.exit_code} ({known.get(-result.exit_code, 'unknown')})"
    # A failure's message has at most 4 KiB; what went wrong is said last.
    for name, output in (("stderr", result.stderr), ("stdout", result.stdout)):
        if output.strip():
            text += f"\n{name}: {output.strip()[-1500:]}"
    return text
