"""Which local variables of a suspended frame are still read. The others must not tell two states apart."""

from __future__ import annotations

import dis
from functools import cache
from types import CodeType

_NO_NEXT = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD"} | {
    "JUMP_BACKWARD_NO_INTERRUPT"
}


@cache
def live_names(code: CodeType, offset: int) -> frozenset[str]:
    """Returns the names that are read after an instruction, before they are written."""
    return _all_live(code).get(offset, frozenset((*code.co_varnames, *code.co_cellvars, *code.co_freevars)))


@cache
def _all_live(code: CodeType) -> dict[int, frozenset[str]]:
    """Returns {offset of an instruction: what is live after it}."""
    instructions = list(dis.get_instructions(code))
    place = {each.offset: number for number, each in enumerate(instructions)}
    handlers = list(dis.Bytecode(code).exception_entries)  # type: ignore[attr-defined]
    following: list[set[int]] = []
    for number, each in enumerate(instructions):
        after = set()
        if each.opname not in _NO_NEXT and number + 1 < len(instructions):
            after.add(number + 1)
        if each.opcode in dis.hasjrel or each.opcode in dis.hasjabs:
            after.add(place[each.argval])
        after |= {place[entry.target] for entry in handlers if entry.start <= each.offset < entry.end}
        following.append(after)
    live_before: list[frozenset[str]] = [frozenset()] * len(instructions)
    live_after = list(live_before)
    is_settled = False
    while not is_settled:
        is_settled = True
        for number in range(len(instructions) - 1, -1, -1):
            after_it = frozenset().union(*(live_before[each] for each in following[number]))
            read, written = _names(instructions[number])
            before_it = (after_it - written) | read
            if (before_it, after_it) != (live_before[number], live_after[number]):
                live_before[number], live_after[number], is_settled = before_it, after_it, False
    return {each.offset: live_after[number] for number, each in enumerate(instructions)}


def _names(instruction: dis.Instruction) -> tuple[frozenset[str], frozenset[str]]:
    """Returns the local variables that an instruction reads and writes."""
    name = instruction.opname
    if "DEREF" in name or name == "LOAD_CLOSURE":
        # Functions that share the variable are looked at where they are found.
        found = frozenset({instruction.argval})
        return (frozenset(), found) if name in ("STORE_DEREF", "DELETE_DEREF") else (found, frozenset())
    if "_FAST" not in name:
        return frozenset(), frozenset()
    names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    kinds = [part for part in ("LOAD_FAST", "STORE_FAST", "DELETE_FAST") if part in name]
    if len(names) == len(kinds) == 1:
        return (frozenset(names), frozenset()) if kinds == ["LOAD_FAST"] else (frozenset(), frozenset(names))
    if name.startswith("STORE_FAST_LOAD"):
        return frozenset(names[1:]) - {names[0]}, frozenset(names[:1])
    if name.startswith("STORE_FAST_STORE"):
        return frozenset(), frozenset(names)
    return frozenset(names), frozenset()
