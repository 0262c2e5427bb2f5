"""Whatever the desk can instruct, somebody carries out; whatever it can be told, it takes.

What is new there is tried without a word here: a field's value follows from its type.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from desk_fleet import ModelFleet
from desk_stage import READY, Stage
from msgspec import Struct

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.options import Options
from gowork.worker._desk import events, instructions
from gowork.worker._desk.events import Event, RunnerReady, WorkerStarted
from gowork.worker._desk.instructions import FleetInstruction, Instruction, StartRunner
from gowork.worker._desk.runner import RunnerId
from gowork.worker._supervisor.supervisor import Supervisor

RUNNER = RunnerId(1)
#: {type of a field: what stands there}
VALUES: dict[object, object] = {
    RunnerId: RUNNER,
    str: "a",
    int: 1,
    float: 1.0,
    bool: True,
    type(None): None,
    session.ConnectResponse: session.ConnectResponse(),
    session.Grant: session.Grant(fence=1, id="t1"),
    session.Report: session.Report(fence=1, id="t1"),
}


def values_of(annotation: Any) -> list[object]:
    """What may stand in a field: one value of each type of a union."""
    if annotation in VALUES:
        return [VALUES[annotation]]
    origin = get_origin(annotation) or annotation
    if origin in (types.UnionType, Union):
        return [value for part in get_args(annotation) for value in values_of(part)]
    if issubclass(origin, Struct):
        return list(examples_of(origin))
    if issubclass(origin, Enum):
        return [next(iter(origin))]
    # Iterable and its like have no instances of their own.
    return [{}] if "Mapping" in origin.__name__ else [()]


def examples_of(word: type[Struct]) -> Iterator[Struct]:
    hints = get_type_hints(word)
    for values in itertools.product(*(values_of(hints[name]) for name in word.__struct_fields__)):
        yield word(*values)


def words_of(module: types.ModuleType) -> set[type[Struct]]:
    """The structs of a module that no other one derives from."""
    found = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Struct)]
    return {each for each in found if each.__module__ == module.__name__ and not each.__subclasses__()}


def examples(union: Any) -> list[Any]:
    found = [(word, example) for word in get_args(union) for example in examples_of(word)]
    return [pytest.param(example, id=f"{word.__name__}-{number}") for number, (word, example) in enumerate(found)]


def is_known(take: Callable[[Any], object], instruction: Any) -> bool:
    """Whether it is one of those that a `match` names."""
    try:
        take(instruction)
    except AssertionError as error:
        if "unreachable" not in str(error):
            raise
        return False
    return True


class Anything:
    """A runner that takes whatever it is told."""

    name, pid = "runner-0", None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    supervisor = Supervisor(Options(name="w", slots=1, runners=1))
    supervisor.fleet.runners[RUNNER] = Anything()  # type: ignore[assignment] # Its methods are made when asked for.
    # It would start a process.
    monkeypatch.setattr(supervisor.fleet, "_start", lambda start: None)
    return supervisor


def test_every_instruction_and_every_event_is_in_its_union() -> None:
    assert words_of(instructions) == set(get_args(Instruction))
    assert words_of(events) == set(get_args(Event))


@pytest.mark.parametrize("instruction", examples(Instruction))
def test_an_instruction_is_carried_out_by_exactly_one(
    instruction: Any, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, notes = supervisor.fleet, supervisor._notes
    known = [whose for whose, take in (("fleet", fleet.perform), ("notes", notes.take)) if is_known(take, instruction)]
    taken: list[str] = []
    monkeypatch.setattr(fleet, "perform", lambda instruction: taken.append("fleet"))
    monkeypatch.setattr(notes, "take", lambda instruction: taken.append("notes"))
    # What neither of them knows the supervisor knows itself: it refuses what it does not.
    supervisor._perform(instruction)
    assert taken == known
    assert len(known) <= 1


@pytest.mark.parametrize("instruction", examples(FleetInstruction))
def test_the_model_of_the_fleet_knows_whatever_the_fleet_carries_out(instruction: Any) -> None:
    fleet = ModelFleet(lambda event: None)
    fleet.perform(StartRunner(RUNNER, "runner-0", 1, 1))
    assert is_known(fleet.perform, instruction)


@pytest.mark.parametrize("event", examples(Event))
def test_the_desk_takes_every_event(event: Any) -> None:
    stage = Stage(slots=2, runners=1)
    stage.tell(WorkerStarted())
    stage.tell(RunnerReady(RUNNER, READY))
    assert is_known(stage.tell, event)
