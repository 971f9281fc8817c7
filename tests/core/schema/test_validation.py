"""Arguments against the JSON Schema test suite, against strangers' schemas, and against anything at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.schema.validation import (
    LARGEST_ARGUMENTS,
    CompiledSchema,
    Rejected,
    compile_schema,
    parse_arguments,
    schema_text,
)

SUITE = Path(__file__).parents[2] / "data" / "json_schema_suite"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def keywords() -> list[Any]:
    found: list[Any] = []
    for draft in ("draft7", "draft2020-12"):
        groups = json.loads((SUITE / f"{draft}.json").read_text())
        for keyword in sorted({group["keyword"] for group in groups}):
            chosen = [group for group in groups if group["keyword"] == keyword]
            found.append(pytest.param(draft, chosen, id=f"{draft}-{keyword}"))
    return found


def compiled(schema: Any, draft: str = "draft2020-12") -> CompiledSchema:
    text = json.dumps(schema)
    if draft == "draft7" and text.startswith("{"):
        text = json.dumps({"$schema": DRAFT_7, **json.loads(text)})
    return compile_schema(text.encode())


@pytest.mark.parametrize(("draft", "groups"), keywords())
def test_agrees_with_the_json_schema_test_suite(draft: str, groups: list[Any]) -> None:
    for group in groups:
        schema = compiled(group["schema"], draft)
        for case in group["tests"]:
            refused = schema.check(case["data"])
            assert (refused is None) is case["valid"], (group["description"], case["description"])


def test_the_suite_is_all_there() -> None:
    groups = [group for parameter in keywords() for group in parameter.values[1]]
    cases = [case for group in groups for case in group["tests"]]
    assert len(cases) > 1_500
    assert {case["valid"] for case in cases} == {True, False}


@pytest.mark.parametrize(
    "reference",
    ["http://example.com/a.json", "https://example.com/a.json", "file:///etc/passwd", "other.json#/$defs/a"],
)
def test_a_reference_to_another_document_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="not a usable JSON Schema"):
        compiled({"$ref": reference})


def test_a_local_reference_is_followed() -> None:
    schema = compiled({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}})
    assert schema.check({"a": 1}) is None
    assert schema.check({"a": "1"}) == Rejected(('a: "1" is not of type "integer"',))


def test_formats_are_not_checked() -> None:
    assert compiled({"type": "string", "format": "email"}).check("nobody") is None


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|aa)+$", "^(?=(a+)+$)(a|aa)+\\1$", "(x+x+)+(?=y)", "(.*)(.*)(.*)\\1z"]
)
def test_a_hostile_pattern_ends(pattern: str) -> None:
    schema = compiled({"pattern": pattern})
    for text in ("a" * 20_000 + "b", "x" * 20_000, "xy" * 10_000):
        schema.check(text)


def test_a_pattern_with_look_around_works() -> None:
    schema = compiled({"pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"})
    assert schema.check("12.5") is None
    assert schema.check("-") is not None


@pytest.mark.parametrize("keyword", ["anyOf", "allOf", "oneOf"])
@pytest.mark.parametrize("levels", [6, 12, 40, 400])
def test_references_that_multiply_end(keyword: str, levels: int) -> None:
    definitions: dict[str, Any] = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)
    }
    definitions[f"d{levels}"] = {"type": "string"}
    try:
        schema = compiled({"$ref": "#/$defs/d0", "$defs": definitions})
    except ValueError as error:
        assert "too many checks" in str(error)  # noqa: PT017 - small ones are taken
    else:
        assert schema.check(1) is not None


def test_recursion_that_multiplies_with_the_depth_ends() -> None:
    schema = compiled({"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "type": "object"})
    value: dict[str, Any] = {"a": 1}
    for _ in range(60):
        value = {"a": value}
    assert str(schema.check(value)) == TOO_LARGE
    assert schema.check({"a": {"a": {}}}) is None


def _within_each_other(keyword: str, levels: int) -> dict[str, Any]:
    """Schemas in place of each other, each of which asks what the one within leaves unevaluated."""
    definitions: dict[str, Any] = {"d0": {"properties": {"x": True}}}
    for level in range(levels):
        inner = {"$ref": f"#/$defs/d{level}"}
        in_place = {"if": inner, "then": True} if keyword == "if" else {keyword: [inner]}
        definitions[f"e{level}"] = in_place
        asked = {"unevaluatedProperties": {"type": "integer"}}
        definitions[f"d{level + 1}"] = {"$ref": f"#/$defs/e{level}", **asked}
    return {"$ref": f"#/$defs/d{levels}", "$defs": definitions}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf", "if"])
def test_what_is_left_unevaluated_is_not_asked_for_ever(keyword: str) -> None:
    assert compiled(_within_each_other(keyword, 3)).check({"x": 1, "y": 1}) is None
    with pytest.raises(ValueError, match="too many checks"):
        compiled(_within_each_other(keyword, 24))


TOO_LARGE = "the arguments are too large, or nested too deeply, for this schema"


SLOW: list[Any] = [
    ({"items": {"enum": [[number] for number in range(10_000)]}}, [[9_999]] * 5_000),
    ({"items": {"enum": [None, *map(str, range(10_000))]}}, ["9999"] * 5_000),
    ({"items": {"not": {"const": [0] * 9_999}}}, [[0] * 9_998] * 50),
    ({"items": {"dependentRequired": {str(number): ["z"] for number in range(10_000)}}}, [{}] * 5_000),
    ({"allOf": [{"pattern": f"[^{number}]{{100}}!|x$"} for number in range(300)]}, "abx " * 20_000),
    ({"pattern": "(?=a*b)[ab]*a[ab]{100}c"}, "ab" * 50_000),
    ({"propertyNames": {"pattern": "(?=(a|aa)+$)b"}}, {"a" * 900 + str(n): 1 for n in range(500)}),
]


@pytest.mark.parametrize(("schema", "value"), SLOW)
def test_what_would_take_too_long_is_refused(schema: Any, value: object) -> None:
    assert str(compiled(schema).check(value)) == TOO_LARGE


def test_no_more_is_written_down_than_is_worth_it() -> None:
    schema = compiled({"propertyNames": {"maxLength": 3}})
    large = {"a" * 900 + str(number): 1 for number in range(500)}
    assert str(schema.check(large)).endswith("too large to say where")
    assert '"abcde"' in str(schema.check({"abcde": 1}))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"path": {"pattern": "^[a-z/]+$"}, "text": {"type": "string"}}},
        {"properties": {"path": {"pattern": "^(?!.*//)[a-z/]+$"}}},
        {"properties": {"path": {"enum": ["/", "/tmp", 3, None]}}, "dependentRequired": {"text": ["path"]}},
    ],
)
def test_what_people_write_is_taken(schema: Any) -> None:
    assert compiled(schema).check({"path": "/tmp", "text": "x" * 20_000}) is None
    refused = compiled(schema).check({"path": "//!", "text": "x" * 500})
    assert refused is not None
    assert refused.reasons[0].startswith("path: ")


def test_a_schema_that_leads_to_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="too many checks"):
        compiled({"allOf": [{"$ref": "#"}]})


def test_a_large_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        schema_text({"enum": ["x" * 300_000]})
    nested: dict[str, Any] = {}
    for _ in range(5_000):
        nested = {"not": nested}
    with pytest.raises(ValueError, match="nested too deeply"):
        schema_text(nested)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {1, 2}}, b"x", float("nan"), 10**400, "\ud800"])
def test_what_is_no_json_raises_nothing(value: object) -> None:
    for schema in ({}, {"type": "object"}, {"properties": {"a": {"type": "integer"}}}):
        compiled(schema).check({"a": value})
        compiled(schema).check(value)


def test_reasons_are_few_and_short() -> None:
    schema = compiled({"items": {"enum": ["y" * 5_000]}})
    refused = schema.check(["x"] * 50)
    assert refused is not None
    assert len(refused.reasons) == 8
    assert max(map(len, refused.reasons)) <= 303


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("{", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": 1}}', "not valid JSON"),
        ("\ud800", "not valid JSON"),
        ("[]", "not an array"),
        ("null", "not null"),
        ("3", "not a number"),
        ("true", "not a boolean"),
        ('"x"', "not a string"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (" " * (LARGEST_ARGUMENTS + 1), "characters"),
        ('{"a": ' + "1" * 5_000 + "}", ""),
    ],
)
def test_bad_arguments_are_refused_with_the_reason(arguments: str, reason: str) -> None:
    parsed = parse_arguments(arguments)
    assert isinstance(parsed, Rejected)
    assert reason in str(parsed)


@pytest.mark.parametrize("arguments", ["", "  ", "{}", {}])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    assert parse_arguments(arguments) == {}


@given(st.text() | st.dictionaries(st.text(), json_values) | json_values.map(json.dumps))
def test_whatever_comes_is_parsed_or_refused(arguments: Any) -> None:
    parsed = parse_arguments(arguments)
    assert isinstance(parsed, (dict, Rejected))
    if isinstance(parsed, dict):
        compiled({"required": ["a"]}).check(parsed)
