"""Notes come back as they were put last, until they are dropped or their time is over."""

from __future__ import annotations

import asyncio
import string

import pytest

from gowork.leader.log.conformance.kit import Fixtures, Opener, append_all, lead, soon
from gowork.leader.log.protocol import Log

_VALUE_BYTES_MAX = 64 << 10
_KEY_CHARACTERS_MAX = 200


@pytest.mark.asyncio
class NoteConformance(Fixtures):
    """Small records beside the entries."""

    async def test_a_note_is_as_it_was_put_last_for_all(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        await log.put_note("b", b"1")
        await other.put_note("a", bytes(range(256)))
        await other.put_note("b", b"")
        assert await log.notes() == await other.notes() == {"a": bytes(range(256)), "b": b""}
        assert await (await open_log()).notes() == {"a": bytes(range(256)), "b": b""}

    async def test_a_dropped_note_is_gone_and_there_may_be_none(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        await log.put_note("a", b"1")
        await log.put_note("ab", b"2")
        await other.drop_note("a")
        await other.drop_note("a")
        await other.drop_note("nothing")
        assert await log.notes() == {"ab": b"2"}

    async def test_notes_are_found_by_what_their_keys_begin_with(self, log: Log) -> None:
        keys = ["a", "a/1", "a/10", "a/2", "a%", "a_1", "A/1", "b/1", "~", "a\\1"]
        for key in keys:
            await log.put_note(key, key.encode())
        for prefix in ("", "a", "a/", "a/1", "a%", "a_", "a\\", "A", "~", "c", "a/1 "):
            expected = {key: key.encode() for key in keys if key.startswith(prefix)}
            assert await log.notes(prefix) == expected, prefix

    async def test_keys_and_values_may_be_as_large_as_their_bounds(self, log: Log) -> None:
        characters = (string.ascii_letters + string.digits + string.punctuation) * 3
        notes = {
            "k" * _KEY_CHARACTERS_MAX: bytes(range(256)) * (_VALUE_BYTES_MAX // 256),
            characters[:_KEY_CHARACTERS_MAX]: b"x" * _VALUE_BYTES_MAX,
        }
        for key, value in notes.items():
            await log.put_note(key, value)
        assert await log.notes() == notes

    async def test_notes_do_not_end_with_a_leadership_and_are_not_pruned(self, log: Log, open_log: Opener) -> None:
        leadership = await lead(log)
        await log.put_note("lasting", b"1")
        await log.put_note("passing", b"2", 600)
        await append_all(leadership, b"1", b"2", b"3")
        await leadership.prune(3)
        await log.close()
        assert await (await open_log()).notes() == {"lasting": b"1", "passing": b"2"}

    async def test_a_note_for_some_seconds_goes_by_itself(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        await log.put_note("lasting", b"1")
        await log.put_note("passing", b"2", 0.5)
        assert await other.notes() == {"lasting": b"1", "passing": b"2"}
        await log.put_note("longer", b"3", 600)

        async def passed() -> bool:
            return await other.notes() == {"lasting": b"1", "longer": b"3"}

        await soon(passed)

    async def test_a_note_stays_for_as_long_as_it_was_put_last(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        for key in ("longer", "for-ever", "shorter"):
            await log.put_note(key, b"1", 600 if key == "shorter" else 0.5)
        await log.put_note("longer", b"2", 600)
        await other.put_note("for-ever", b"2")
        await log.put_note("shorter", b"2", 0.5)

        async def passed() -> bool:
            # The two others were to end before this one.
            return "shorter" not in await other.notes()

        await soon(passed)
        assert await log.notes() == {"longer": b"2", "for-ever": b"2"}

    async def test_a_cancelled_note_is_there_whole_or_not_at_all(self, log: Log) -> None:
        await log.put_note("a", b"before")
        for wait in range(5):
            putting = asyncio.ensure_future(log.put_note("a", b"after"))
            for _ in range(wait):
                await asyncio.sleep(0)
            putting.cancel()
            await asyncio.gather(putting, return_exceptions=True)
            assert await log.notes() in ({"a": b"before"}, {"a": b"after"})
