"""What must hold, by name."""

from __future__ import annotations

from typing import NamedTuple

from explore_etcd import Appended, EtcdState
from explore_life import keys_of
from memory_store import Content

from gowork.leader._core.model import Position
from gowork.leader.log.entries import ChainError, Kind, unseal
from gowork.leader.store.batches import decode_batch

ONE_LEADER = "at most one leader appends in a term"
NOTHING_MISSING = "nothing acknowledged is missing"
PREFIX_OF_THE_LOG = "every store is a prefix of the log"
DENSE = "entries are dense"
TERMS_GROW = "terms grow"
CONFIRMED = "a confirm that returned was true after it was asked"
REFUSED = "what was refused is not written"
LAST_ENTRY = "the log keeps its last entry"
CAN_APPLY = "who is elected can apply the log"
OWN_LEASE = "the own lease ends first"
SAME_BYTES = "an entry is read as it was appended"
GENERATION = "only who belongs to the log's generation leads"
ENDS_WELL = "in the end all is committed, and every store has it"
NO_FAILURE = "a leader goes on, whatever happens"


class Violation(Exception):
    """A rule does not hold.

    Args:
        rule: its name.
        seen: what was seen instead.
    """

    def __init__(self, rule: str, seen: str) -> None:
        super().__init__(f"{rule}: {seen}")
        self.rule = rule
        #: What happened until it was seen, from the last state on; see World.words.
        self.last: list[tuple[str, int, int]] = []


class Written(NamedTuple):
    """An entry that the log has, or had."""

    hash: bytes
    term: int
    #: The batches that it writes.
    keys: tuple[str, ...]


class Past(NamedTuple):
    """What the checkers remember."""

    #: All that was ever in the log. Prunes take nothing away here.
    log: tuple[Written, ...] = ()
    #: The index of the last entry that was acknowledged.
    acknowledged: int = 0
    #: The hashes of entries of which was said that they are not written.
    refused: frozenset[bytes] = frozenset()
    #: The last term that was given.
    term: int = 0


def check_change(past: Past, before: EtcdState, after: EtcdState) -> Past:
    """Looks at what etcd has done."""
    if after.token not in (0, before.token):
        if after.term <= past.term:
            raise Violation(TERMS_GROW, f"term {after.term} was given after {past.term}")
        past = past._replace(term=after.term)
    for appended in after.appended():
        past = _check_entry(past, after, appended)
    if past.log and after.last != len(past.log):
        raise Violation(LAST_ENTRY, f"the last entry is {after.last}, and {len(past.log)} were written")
    return past


def _check_entry(past: Past, etcd: EtcdState, appended: Appended) -> Past:
    index, hash_ = appended.place, appended.hash
    if appended.replaces or index <= len(past.log):
        raise Violation(DENSE, f"another entry {index} was written")
    if index != len(past.log) + 1:
        raise Violation(DENSE, f"entry {index} was written after {len(past.log)}")
    try:
        entry, _ = unseal(_last_position(past, etcd), index, appended.data)
    except ChainError as error:
        raise Violation(GENERATION if not past.log else DENSE, str(error)) from error
    if not etcd.token or etcd.term != entry.term:
        raise Violation(ONE_LEADER, f"entry {index} is of term {entry.term}, and term {etcd.term or 'none'} leads")
    if past.log and entry.term < past.log[-1].term:
        raise Violation(TERMS_GROW, f"entry {index} has term {entry.term} after {past.log[-1].term}")
    if hash_ in past.refused:
        raise Violation(REFUSED, f"entry {index} was written later")
    facts = decode_batch(entry.body).facts if entry.kind is Kind.BATCH else ()
    return past._replace(log=(*past.log, Written(hash_, entry.term, tuple(fact.key for fact in facts))))


def check_acknowledged(past: Past, index: int, digest: bytes) -> Past:
    """Looks at what was acknowledged."""
    if index > len(past.log) or past.log[index - 1].hash != digest:
        raise Violation(NOTHING_MISSING, f"entry {index} was acknowledged, and the log does not have it")
    return past._replace(acknowledged=max(past.acknowledged, index))


def check_kept(past: Past, etcd: EtcdState, applied: int) -> None:
    """Looks whether what was acknowledged is still somewhere: in the log, or in a store.

    Args:
        past: what is remembered.
        etcd: its state.
        applied: the index up to which some store has applied the log.
    """
    if past.acknowledged > etcd.last:
        raise Violation(NOTHING_MISSING, f"entry {past.acknowledged} is gone from the end of the log")
    if etcd.first > applied + 1:
        raise Violation(NOTHING_MISSING, f"entry {etcd.first - 1} is neither in the log nor in a store")


def check_refused(past: Past, index: int, digest: bytes) -> Past:
    """Looks at an entry of which was said that it is not written."""
    if any(written.hash == digest for written in past.log):
        raise Violation(REFUSED, f"entry {index} is in the log")
    return past._replace(refused=past.refused | {digest})


def check_read(past: Past, index: int, digest: bytes) -> None:
    """Looks at an entry that was read."""
    if index > len(past.log) or past.log[index - 1].hash != digest:
        raise Violation(SAME_BYTES, f"entry {index} has other bytes")


def check_store(past: Past, content: Content) -> None:
    """Looks at what a store has."""
    position = content.position
    assert position is not None
    index = position.index
    if index > len(past.log):
        raise Violation(PREFIX_OF_THE_LOG, f"a store has applied entry {index}, and the log ends with {len(past.log)}")
    if index and past.log[index - 1].hash != position.hash:
        raise Violation(PREFIX_OF_THE_LOG, f"a store has another entry {index}")
    if keys_of(content) != {key for written in past.log[:index] for key in written.keys}:
        raise Violation(PREFIX_OF_THE_LOG, f"a store has {sorted(keys_of(content))} after entry {index}")


def check_end(past: Past, indexes: list[int], batches: int) -> None:
    """Looks at all when nothing is left to happen but faults.

    Args:
        past: what is remembered.
        indexes: how far each store has come.
        batches: how many batches there are.
    """
    written = [key for entry in past.log for key in entry.keys]
    if sorted(written) != [f"{number}" for number in range(batches)]:
        raise Violation(ENDS_WELL, f"the log has the batches {written} of {batches}")
    if any(index != len(past.log) for index in indexes):
        raise Violation(ENDS_WELL, f"stores have applied {indexes} of {len(past.log)} entries")


def _last_position(past: Past, etcd: EtcdState) -> Position:
    return Position(etcd.generation_id, len(past.log), past.log[-1].hash if past.log else bytes(32))
