"""Random histories: batches that a leader could have written, one after the other."""

from __future__ import annotations

from hypothesis import strategies as st

from gowork.leader._core.model import Fact, FactKey, LaneKey, Priority, Standing, Status
from gowork.leader.store.conformance import FULL_LANE, FULL_STANDING, new_task
from gowork.leader.store.protocol import Batch, DeletedTask, MovedTask, NewTask, changed_number

TERM = 7
LANES = (FULL_LANE, LaneKey("default", Priority.LOW, "", ()), LaneKey("default", Priority.LOW, "h", (), "k"))
KINDS = ("members of none", "k")
#: Keys sort by code points: the last two are in another order in UTF-16.
KEYS = ("a", "b", "\ufffd", "\U00010000")

#: Ids and labels are printable, and results are any text.
ids = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
times = st.sampled_from((0, 1, 1_761_900_000_000, (1 << 48) - 1))


@st.composite
def standings(draw: st.DrawFn, status: Status | None = None) -> Standing:
    """Where a task stands."""
    if draw(st.booleans()) and status in (None, FULL_STANDING.status):
        return FULL_STANDING
    return Standing(
        status or draw(st.sampled_from(Status)),
        draw(times),
        fence=draw(st.integers(0, (1 << 63) - 1)),
        result=draw(texts),
        result_data=draw(st.binary(max_size=8)),
        not_before_ms=draw(times),
        finished_ms=draw(times),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Batch]:
    """Batches, each of which fits what the ones before have made."""
    batches: list[Batch] = []
    #: {seq: id} of the tasks that are there.
    there: dict[int, str] = {}
    next_seq = 1
    for number in range(1, draw(st.integers(1, 6)) + 1):
        changed = changed_number(TERM, number)
        touched = draw(st.lists(st.sampled_from(sorted(there)), unique=True)) if there else []
        cut = draw(st.integers(0, len(touched)))
        deletes = [DeletedTask(seq, there.pop(seq), changed) for seq in touched[:cut]]
        inserts: list[NewTask] = []
        for id in draw(st.lists(ids, max_size=4, unique=True)):
            if id in there.values():
                continue
            next_seq += draw(st.integers(0, 2))
            there[next_seq] = id
            inserts.append(
                new_task(
                    next_seq,
                    id,
                    changed=changed,
                    body=draw(st.binary(max_size=8)),
                    at=draw(standings()),
                    lane=draw(st.sampled_from(LANES)),
                    labels=draw(st.dictionaries(ids, ids, max_size=2)),
                    expires_ms=draw(times),
                )
            )
            next_seq += 1
        moves = [draw(_moves(seq, changed)) for seq in touched[cut:]]
        facts = draw(st.dictionaries(st.tuples(st.sampled_from(KINDS), st.sampled_from(KEYS)), st.binary(max_size=4)))
        gone = draw(st.lists(st.builds(FactKey, st.sampled_from(KINDS), st.sampled_from(KEYS)), max_size=2))
        batches.append(
            Batch(
                inserts,
                moves,
                deletes,
                [Fact(kind, key, value) for (kind, key), value in facts.items()],
                gone,
                draw(st.sampled_from((0, changed_number(TERM, number - 1)))),
            )
        )
    return batches


@st.composite
def _moves(draw: st.DrawFn, seq: int, changed: int) -> MovedTask:
    at = draw(standings())
    if at.status is Status.PENDING or draw(st.booleans()):
        return MovedTask(seq, changed, at, draw(st.sampled_from(LANES)), draw(times))
    return MovedTask(seq, changed, at)
