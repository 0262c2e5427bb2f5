"""Notes what happens in one history: lines to read, and counts of what has occurred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from gowork.leader.store.protocol import TERM_SHIFT


class Trace:
    """Takes notes.

    Args:
        now: returns the time in simulated seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._notes: list[tuple[float, tuple[object, ...]]] = []
        self._has_ended = False
        #: {kind: how often}: faults, outcomes, ways of tasks, refusals.
        self.seen: Counter[str] = Counter()

    def note(self, *words: object) -> None:
        """Notes a line: who does what with which task under which fence. `lines` formats it."""
        if not self._has_ended or words[0] == "error":
            self._notes.append((self._now(), words))

    def end(self) -> None:
        """Ends the history: nothing but errors is noted from now on.

        All processes are ended at one moment then. In which order they do so hangs on sets within asyncio, and so on
        what ran before in this process.
        """
        self._has_ended = True

    def fault(self, kind: str, *words: object) -> None:
        """Notes that something goes wrong on purpose."""
        self.seen[f"fault: {kind}"] += 1
        self._notes.append((self._now(), ("fault", kind, *words)))

    def lines(self) -> Iterator[str]:
        """The history, a line for each note, up to the first error; a fence is written as term:number."""
        for at, (who, *words) in self._notes:
            yield f"{at:9.4f} {who!s:<8}{' '.join(map(_readable, words))}"
            if who == "error":
                return


def _readable(word: object) -> str:
    if type(word) is int and word >> TERM_SHIFT:
        return f"{word >> TERM_SHIFT}:{word & (1 << TERM_SHIFT) - 1}"
    if isinstance(word, list | tuple):
        return ",".join(map(_readable, word))
    return str(word)
