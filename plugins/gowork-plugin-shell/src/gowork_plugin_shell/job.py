"""The payload of a shell task, and its result."""

from __future__ import annotations

import signal

import msgspec

#: How many bytes of each output are kept if the task names no number, and how many it may name. Both outputs, as JSON,
#: must fit into a result.
OUTPUT_BYTES_DEFAULT = 64 << 10
OUTPUT_BYTES_MAX = 400 << 10


class ShellJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The payload: JSON with these fields. Only `command` is needed."""

    #: The program and its arguments; with `shell`, one line for /bin/sh.
    command: list[str] | str
    #: Variables that are added to the worker's environment.
    env: dict[str, str] = {}
    #: The working directory; None for the worker's own.
    cwd: str | None = None
    #: The command's standard input.
    stdin: str = ""
    #: Whether /bin/sh interprets the command.
    shell: bool = False
    #: How many bytes of standard output, and of standard error, are kept. A longer output keeps its beginning and end.
    output_bytes_max: int = OUTPUT_BYTES_DEFAULT
    #: Whether an exit code other than 0 fails the attempt.
    check: bool = True

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: when a field is out of its bounds, or does not go with `shell`.
        """
        if self.shell and not isinstance(self.command, str):
            raise ValueError('command: with "shell": true, give one line of text, not a list')
        if not self.shell and isinstance(self.command, str):
            raise ValueError('command: give a list, as in ["sort", "-n"]; a line of text needs "shell": true')
        if not self.command or not self.command[0]:
            raise ValueError("command: it is empty")
        if not 0 <= self.output_bytes_max <= OUTPUT_BYTES_MAX:
            raise ValueError(f"output_bytes_max: it is {self.output_bytes_max}; give 0 to {OUTPUT_BYTES_MAX}")
        texts = [*self.command, *self.env, *self.env.values(), self.cwd or ""]
        if any("\0" in text for text in texts) or any("=" in name or not name for name in self.env):
            raise ValueError(
                "command, env and cwd must not have NUL characters, and names in env must have no equals sign and not "
                "be empty"
            )

    @property
    def arguments(self) -> list[str]:
        """The program that is executed, and its arguments."""
        return ["/bin/sh", "-c", self.command] if isinstance(self.command, str) else self.command


class ShellResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result. Bytes that are not UTF-8 are replaced."""

    #: The exit code; the negative number of the signal if a signal ended the command.
    exit_code: int
    stdout: str
    stderr: str
    #: Whether a part of the output was left out.
    stdout_truncated: bool
    stderr_truncated: bool
    #: How long the command ran.
    seconds: float


class CommandFailed(Exception):
    """The command ended with an exit code other than 0."""

    def __init__(self, result: ShellResult) -> None:
        super().__init__(_words(result))
        self.result = result


def _words(result: ShellResult) -> str:
    if result.exit_code >= 0:
        text = f"exit code {result.exit_code}"
    else:
        known = {number.value: number.name for number in signal.Signals}
        text = f"killed by signal {-result.exit_code} ({known.get(-result.exit_code, 'unknown')})"
    # A failure's message has at most 4 KiB. The ends of the outputs are kept, because errors are mostly there.
    for name, output in (("stderr", result.stderr), ("stdout", result.stdout)):
        if output.strip():
            text += f"\n{name}: {output.strip()[-1500:]}"
    return text
