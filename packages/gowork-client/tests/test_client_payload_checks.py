"""Payloads are checked against the schemas that workers give of their handlers, before they are sent."""

from __future__ import annotations

import json
import socket
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gowork.client import AsyncClient, Client, HandlerInfo, HandlerVersion, InvalidArgument
from gowork.client import _payload_checks as checks
from gowork.client._payload_checks import HANDLERS_KEPT_MAX, PayloadChecks, check, fault_of, within
from gowork.client._payloads import encode_payload
from gowork.client._responses import handler as handler_of
from gowork.proto.cluster.v1 import leader_pb2 as cluster

JOB = {
    "type": "object",
    "title": "Job",
    "properties": {"name": {"type": "string"}, "sizes": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
}


def version(schema: Any = JOB, **fields: Any) -> HandlerVersion:
    return HandlerVersion("p", "1", 1, ("w",), True, payload_schema=schema, **fields)


def fault(payload: object, *versions: HandlerVersion) -> str:
    try:
        check(versions or (version(),), "h", *encode_payload(payload))
    except InvalidArgument as error:
        (violation,) = error.violations
        return f"{violation.field}: {violation.description}"
    return ""


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"name": 1}, "payload.name: 1 is not of type 'string'"),
        ({"name": "a", "sizes": [1, "x"]}, "payload.sizes[1]: 'x' is not of type 'integer'"),
        ({}, "payload: 'name' is a required property"),
        ({"nmae": "a"}, "payload: 'name' is a required property; is 'nmae' meant to be 'name'?"),
        ([1], "payload: [1] is not of type 'object'"),
        ("", "payload: it is empty; JSON of Job is needed"),
        ("Ada", "payload: it is not JSON"),
    ],
)
def test_the_wrong_field_is_named(payload: object, words: str) -> None:
    assert words in fault(payload)


NESTED = {
    "$ref": "#/$defs/Order",
    "$defs": {
        "Order": {"properties": {"jobs": {"type": "array", "items": {"$ref": "#/$defs/Job"}}, "any": {}}},
        "Job": JOB,
    },
}


@pytest.mark.parametrize(
    ("schema", "payload", "words"),
    [
        (JOB, {"name": "a", "size": [1]}, "payload.size, and may drop it; is 'sizes' meant?"),
        (JOB, {"name": "a", "zzz": 1}, "payload.zzz, and may drop it"),
        (NESTED, {"jobs": [{"name": "a"}, {"name": "a", "siezs": []}]}, "payload.jobs[1].siezs, and may drop it"),
        (NESTED, {"jobs": [], "any": {"zzz": 1}}, ""),
        (JOB, {"name": "a", "sizes": []}, ""),
        (JOB | {"additionalProperties": {"type": "integer"}}, {"name": "a", "zzz": 1}, ""),
        ({"anyOf": [JOB]}, {"name": "a", "zzz": 1}, ""),
        ({"type": "object"}, {"zzz": 1}, ""),
        ({"$ref": "#/$defs/a", "$defs": 1}, {"zzz": 1}, ""),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, {"zzz": 1}, ""),
        (JOB | {"properties": 1}, {"name": "a"}, ""),
        (JOB, b"bytes", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_without_a_name_in_the_schema_is_warned_of(schema: Any, payload: object, words: str) -> None:
    warned = check((version(schema),), "h", *encode_payload(payload))
    assert warned.removeprefix("the handler 'h' names no field ").startswith(words) if words else warned == ""


def test_a_field_that_another_version_names_is_right() -> None:
    wider = version(JOB | {"properties": {**JOB["properties"], "more": {}}})  # type: ignore[dict-item]
    narrow = version(JOB | {"required": ["other"]})
    payload = encode_payload({"name": "a", "more": 1})
    assert check((version(), wider), "h", *payload) == ""
    assert "payload.more" in check((version(), narrow), "h", *payload)


@pytest.mark.parametrize("payload", [{"name": "a"}, '{"name": "a"}', {"name": "a", "more": 1}, b"bytes", b""])
def test_what_may_be_right_passes(payload: object) -> None:
    assert fault(payload) == ""


def test_a_payload_is_right_if_one_version_takes_it() -> None:
    other = version({"type": "object", "required": ["url"]})
    assert fault({"url": "a"}, version(), other) == ""
    assert "'name'" in fault({}, version(), other)


def test_what_is_not_described_is_not_checked() -> None:
    assert fault({}, version(), HandlerVersion("p", "1", 1, ("w",), False)) == ""
    assert fault({}, version(None)) == ""
    assert fault("anything", version(takes_payload=False)) == ""


def test_an_empty_payload_passes_where_a_default_stands_for_it() -> None:
    assert fault("", version(payload_optional=True)) == ""
    assert fault({}, version(payload_optional=True))


def test_a_text_is_its_own_value_where_texts_are_taken() -> None:
    texts = version({"anyOf": [JOB, {"type": "string"}]})
    for payload in ("Ada", "[1]", ""):
        assert fault(payload, texts) == ""


def test_of_several_schemas_the_nearest_one_names_the_field() -> None:
    schema = {"anyOf": [{"type": "object", "required": ["theName", "other"]}, JOB]}
    assert fault({"sizes": ["x"], "name": "a"}, version(schema)).startswith("payload.sizes[0]: ")


def test_of_schemas_whose_errors_are_alike_the_one_with_fewest_is_named() -> None:
    schema = {"anyOf": [{"required": ["one", "two"]}, {"required": ["three"]}]}
    assert fault({}, version({"type": "object", **schema})) == "payload: 'three' is a required property"


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:1/x"}, {"$ref": "#/nowhere"}, {"properties": 3}, {"required": 1}],
)
def test_a_schema_that_is_none_refuses_nothing(schema: Any) -> None:
    assert fault_of(version(schema), "[1]", b"", 0) is None


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"pattern": "^x+$"}, '"y"'),
        ({"type": "object", "properties": {"a": {"pattern": r"^[[:alpha:]]+$"}}}, {"a": "b"}),
        ({"type": "object", "patternProperties": {"^x": {"type": "string"}}}, {"x": 1}),
        ({"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False}, {"y": 1}),
        ({"type": "array", "uniqueItems": True}, [1, 1]),
        ({"type": "object", "properties": {"a": {"uniqueItems": True}}}, {"a": [1, 1]}),
        ({"type": "object", "unevaluatedProperties": False}, {"a": 1}),
        ({"type": "array", "unevaluatedItems": False}, [1]),
    ],
)
def test_patterns_and_unique_items_are_left_to_the_worker(schema: Any, payload: object) -> None:
    assert fault(payload, version(schema)) == ""


def test_beside_what_is_left_to_the_worker_the_rest_is_checked() -> None:
    schema = {"pattern": "x", "uniqueItems": True, **JOB, "additionalProperties": False}
    assert fault({"name": 1}, version(schema)).startswith("payload.name: ")
    assert "'more' was unexpected" in fault({"name": "a", "more": 1}, version(schema))


DIALECT = "https://json-schema.org/draft/2020-12/schema"
SLOW = {"pattern": "^(a+)+$"}


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": DIALECT, **SLOW},
        {"items": {"$schema": DIALECT, **SLOW}},
        {"items": {"$ref": "#/x"}, "x": {"$schema": "http://json-schema.org/draft-07/schema#", **SLOW}},
        {"$id": "gowork:x", "$dynamicAnchor": "meta", "$ref": DIALECT, "items": SLOW},
    ],
)
def test_no_part_of_a_schema_brings_back_patterns(schema: Any) -> None:
    # With patterns this would take hours.
    assert fault(["a" * 60 + "!"], version(schema)) == ""


def test_a_schema_that_names_its_dialect_is_checked() -> None:
    assert fault({"name": 1}, version({"$schema": DIALECT, **JOB})).startswith("payload.name: ")


def endless(keyword: str = "allOf") -> dict[str, Any]:
    parts = {f"p{number}": {keyword: [{"$ref": f"#/$defs/p{number + 1}"}] * 2} for number in range(60)}
    return {"$ref": "#/$defs/p0", "$defs": parts | {"p60": {"type": "integer"}}}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_a_check_ends_in_time_whatever_the_schema(keyword: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS_MAX", 0.05)
    assert fault({"a": 1}, version(endless(keyword))) == ""


def test_what_took_too_long_once_is_left_to_the_worker_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = version(endless())
    monkeypatch.setattr(checks, "CHECK_SECONDS_MAX", 0.05)
    assert fault({"a": 1}, slow) == ""
    monkeypatch.setattr(checks, "CHECK_SECONDS_MAX", 1e9)
    assert fault({"a": 1}, slow) == ""


def test_all_versions_of_a_handler_share_the_time_of_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1_000))
    monkeypatch.setattr(checks.time, "thread_time", lambda: float(next(now)))
    monkeypatch.setattr(checks, "CHECK_SECONDS_MAX", 5.0)
    assert fault({"a": 1}, *(version({"type": "integer"}) for _ in range(20))) == ""


def test_misspelt_fields_are_looked_for_among_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def alike(name: str, names: list[str], n: int) -> list[str]:
        compared.append(len(names))
        return []

    monkeypatch.setattr(checks, "get_close_matches", alike)
    needed = {"type": "object", "required": [f"a{number}" for number in range(2_000)]}
    assert "'a0' is a required property" in fault({f"b{number}": 1 for number in range(2_000)}, version(needed))
    assert len(compared) <= 20
    assert max(compared) <= 20


def test_a_name_of_a_type_is_cut() -> None:
    assert len(fault("", version({"title": "T" * 60_000}))) < 300
    assert len(fault("", version({"$ref": "#/$defs/" + "T" * 60_000}))) < 300


@pytest.mark.parametrize("payload", ["[" * 100_000, '{"name": NaN}', "[Infinity]", "-Infinity"])
def test_what_is_not_json_is_refused(payload: str) -> None:
    assert fault(payload).startswith("payload: it is not JSON")


def test_nothing_that_a_schema_refers_to_is_fetched() -> None:
    # So that the library is loaded before it has to be quick.
    assert fault_of(version(), "[1]", b"", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        schema = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema"}
        with warnings.catch_warnings():
            # The library warns before it fetches, which would be an error here, and nothing would be fetched.
            warnings.simplefilter("ignore")
            fetching = threading.Thread(target=fault_of, args=(version(schema), "[1]", b"", 0), daemon=True)
            fetching.start()
            fetching.join(timeout=10.0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_payload_is_checked_by_the_versions_that_may_run_it() -> None:
    old, new, bare = (
        HandlerVersion("p", name, 1, ("w",), True, payload_schema={"type": kind})
        for name, kind in (("1.9", "integer"), ("1.10", "object"), ("", "array"))
    )
    versions = (old, new, bare)
    assert within(versions, "h", "<1.10") == ([old], "")
    assert within(versions, "h", ">=1") == ([old, new], "")
    warning = "no worker has the handler 'h' in a version within >=2 now; there is 1.9, 1.10, one without a version"
    assert within(versions, "h", ">=2") == ((), warning)
    many = [HandlerVersion("p", f"1.{number}", 1, ("w",), True) for number in range(9)]
    assert within(many, "h", ">=2")[1].endswith("there is 1.0, 1.1, 1.2, 1.3, 1.4")


def test_a_bounded_number_of_schemas_is_kept_each_with_its_own_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "VALIDATORS_KEPT_MAX", 3)
    kept: dict[int, Any] = {}
    monkeypatch.setattr(checks, "_validators", kept)
    versions = [version({"const": number}) for number in range(8)]
    for _ in range(2):
        assert [fault(number, each) for number, each in enumerate(versions)] == [""] * 8
        assert all("was expected" in fault(-1, each) for each in versions)
        assert 0 < len(kept) <= 3
    assert checks._validators is kept


def test_a_long_message_is_cut() -> None:
    assert len(fault({"name": ["x" * 10_000]})) < 500


def test_what_the_leader_told_counts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    known = PayloadChecks()
    assert known.get("h") is None
    found = HandlerInfo("h", (version(),))
    assert known.put("h", [found]) == known.get("h") == ((version(),), "")
    monkeypatch.setattr(checks.time, "monotonic", lambda: 1e12)
    assert known.get("h") is None


def test_a_handler_that_nobody_has_is_a_warning_with_a_similar_name() -> None:
    versions, warning = PayloadChecks().put("resise", [], ["resize", "other"])
    assert not versions
    assert warning == "no worker has the handler 'resise' now; did you mean 'resize'?"


def test_several_threads_may_note_handlers() -> None:
    known = PayloadChecks()
    for number in range(HANDLERS_KEPT_MAX):
        known.put(f"first.{number}", ())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-7)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: known.put(f"h.{number}", ()), range(8_000)))
    finally:
        sys.setswitchinterval(before)
    assert known.get("h.7999") is not None


def test_a_bounded_number_of_handlers_is_remembered() -> None:
    known = PayloadChecks()
    for number in range(HANDLERS_KEPT_MAX + 1):
        known.put(f"h{number}", [])
    assert known.get("h0") is None
    assert known.get(f"h{HANDLERS_KEPT_MAX}") is not None


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_without_jsonschema_the_error_says_what_to_install(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ImportError, match=r"pip install 'gowork-client\[schemas\]'"):
        kind("127.0.0.1:1", check_payloads=True)


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", "null", '{"payload": 3, "doc": null}', "[" * 100_000])
def test_a_description_of_any_form_is_read(text: str) -> None:
    told = handler_of(cluster.Handler(name="h", versions=[cluster.HandlerVersion(description=text)]))
    assert told.versions[0].payload_schema is None


def test_a_description_is_read_with_all_its_parts() -> None:
    text = json.dumps({"doc": "Does.", "payload": JOB, "result": {}, "takes_payload": False, "payload_optional": True})
    (one,) = handler_of(cluster.Handler(name="h", versions=[cluster.HandlerVersion(description=text)])).versions
    assert (one.doc, one.payload_schema, one.result_schema) == ("Does.", JOB, {})
    assert (one.is_described, one.takes_payload, one.payload_optional) == (True, False, True)
