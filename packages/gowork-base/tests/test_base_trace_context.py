import pytest

from gowork.base.trace_context import is_sampled, is_traceparent, is_tracestate, sampled_trace_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [SAMPLED, f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-ff", f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-more"],
)
def test_the_standards_forms_are_traceparents(text: str) -> None:
    assert is_traceparent(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        SAMPLED[:-1],
        SAMPLED + "0",
        SAMPLED + "-more",
        SAMPLED.upper(),
        f" {SAMPLED}",
        f"{SAMPLED}\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 50}",
    ],
)
def test_everything_else_is_none(text: str) -> None:
    assert not is_traceparent(text)


def test_a_tracestate_is_printable_ascii_of_bounded_length() -> None:
    assert is_tracestate("")
    assert is_tracestate("vendor=value,other=1")
    assert is_tracestate("x" * 512)
    assert not is_tracestate("x" * 513)
    assert not is_tracestate("vendor=ü")
    assert not is_tracestate("a=1\n")


def test_only_what_is_recorded_has_a_trace_to_look_up() -> None:
    assert sampled_trace_id(SAMPLED) == TRACE
    assert sampled_trace_id(f"00-{TRACE}-{SPAN}-03") == TRACE
    assert sampled_trace_id(f"00-{TRACE}-{SPAN}-02") == ""
    assert sampled_trace_id("") == ""
    assert is_sampled(SAMPLED)
    assert not is_sampled(f"00-{TRACE}-{SPAN}-00")
