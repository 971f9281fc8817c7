"""Pipelines written down and read again: equal, and nothing runs that was not allowed."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, NewType, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from typing_extensions import TypeAliasType

from executionkit.core.canonical import canonical
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.prompt import prompt
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.patterns.structured import structured
from executionkit.plan import dumps, fingerprint, loads
from executionkit.plan.references import KNOWN
from executionkit.providers.secret import Secret
from executionkit.stage import Stage
from tests.doubles import Model
from tests.pipelines import (
    CHEAP,
    DEAR,
    ONE,
    PIPELINES,
    PROVIDERS,
    VARIED,
    Mood,
    Own,
    Town,
    find,
    look,
    other,
    own,
    rule,
    score,
)

DOCUMENTS: Final = int(os.environ.get("EXECUTIONKIT_DOCUMENTS", "400"))
"""10,000 in the long form, `just long plan`."""
GENERATED: Final = int(os.environ.get("EXECUTIONKIT_PLANS", "100"))

HERE = ["tests.pipelines"]


def is_stage(value: object) -> bool:
    return isinstance(value, Stage)


VARIATIONS = [
    pytest.param(base, {field: value}, id=f"{type(base).__name__}.{field}")
    for base, others in VARIED
    for field, value in others.items()
    if is_stage(base)
]

Alias = TypeAliasType("Alias", list[int])
Number = NewType("Number", int)


@dataclass(frozen=True)
class Judge:
    """An evaluator that is data."""

    words: tuple[str, ...]
    least: float = 0.5

    def __call__(self, text: str) -> float:
        return float(all(word in text for word in self.words))


class Plain:
    """An evaluator that is not."""

    def __call__(self, text: str) -> float:
        return 1.0


class Stamp:
    """Makes values."""

    @classmethod
    def of(cls, text: str) -> str:
        return text


def read_again(stage: Stage[Any, Any], allow: list[str] = HERE) -> Stage[Any, Any]:
    return loads(dumps(stage, providers=PROVIDERS), allow=allow, providers=PROVIDERS)


@pytest.mark.parametrize(("base", "change"), VARIATIONS)
def test_every_field_is_written(base: Any, change: dict[str, Any]) -> None:
    stage = msgspec.structs.replace(base, **change)
    back = read_again(stage)
    assert canonical(back, with_names=True) == canonical(stage, with_names=True)
    if not isinstance(change.get("function"), partial):  # which are not equal to any other
        assert back == stage


@settings(max_examples=GENERATED, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PIPELINES)
def test_what_is_read_is_what_was_written(pipeline: Any) -> None:
    written = dumps(pipeline, providers=PROVIDERS)
    back = loads(written, allow=HERE, providers=PROVIDERS)
    assert fingerprint(back) == fingerprint(pipeline)
    assert canonical(back, with_names=True) == canonical(pipeline, with_names=True)
    assert dumps(back, providers=PROVIDERS) == written
    assert back == pipeline or b'"partial"' in written


OWN: Final[list[Stage[Any, Any]]] = [
    refine(Judge(("a", "b"))),
    complete().map(Stamp.of),
    structured(list[Number]),
    step(other, kind=Alias),
    step(other, mood=Mood.LOUD, deep={"a": [1, {2}, frozenset("x"), 2**70, float("inf"), "\ud800"]}),
    complete().within(msgspec.convert({"llm_calls": 3, "usd": "0.5"}, KNOWN["executionkit:TokenUsage"])),
]


@pytest.mark.parametrize("stage", OWN, ids=lambda stage: type(stage).__name__)
def test_values_of_ones_own_are_written(stage: Stage[Any, Any]) -> None:
    assert read_again(stage, ["tests"]) == stage


def test_a_document_is_text_with_a_version() -> None:
    document = json.loads(dumps(consensus(3) >> prompt("Say {}")))
    assert document["executionkit.plan"] == 1
    assert [each["$"] for each in document["stage"]["stages"]] == [
        "executionkit:Consensus",
        "executionkit:Prompt",
    ]
    assert loads(json.dumps(document)) == consensus(3) >> prompt("Say {}")


def local() -> Callable[[str], float]:
    def judge(text: str) -> float:
        return 1.0

    return judge


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (complete() >> complete().map(lambda text: text), r"stages\.1\.functions\.0 .*a lambda has no name"),
        (refine(local()), r"evaluator .*local\.<locals>\.judge, which is within a function"),
        (refine(Plain()), r"evaluator .*class Plain cannot be .*dataclass"),
        (refine(Judge(("a",)).__call__), "evaluator .*is not where its name says"),
        (complete().using(Model()), r"provider .*providers=\{name: provider\}"),
        (consensus(2, providers=[CHEAP, Model()]), r"sampling\.providers\.1 .*by its name"),
        (
            react([look]).within(KNOWN["executionkit:TokenUsage"]()) >> refine(Plain()),
            r"stages\.1\.evaluator",
        ),
        (step(other, api_key="sk-123"), "'api_key' looks like a key"),
        (step(other, options={"Authorization": "Bearer x"}), r"keywords\.0\.1 .*'Authorization' looks like"),
        (step(partial(other, token="x")), "function .*'token' looks like a key"),
        (step(other, x=Secret("sk-123")), "a key is never written down"),
        (step(other, x=object()), "class object cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_place_and_the_cure(
    stage: Stage[Any, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words) as caught:
        dumps(stage, providers=PROVIDERS)
    assert "sk-123" not in str(caught.value)


def test_only_a_stage_is_written() -> None:
    with pytest.raises(TypeError, match="a stage is wanted, not str"):
        dumps("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert b"key_words" in dumps(step(other, key_words="x", max_tokens="9"))


def test_a_provider_is_its_name_and_no_key_is_written() -> None:
    key = "sk-secret-123"
    keyed = msgspec.structs.replace(CHEAP, api_key=Secret(key))
    written = dumps(consensus(2, providers=[keyed]).using(DEAR), providers={"a": keyed, "b": DEAR})
    assert key.encode() not in written
    back: Any = loads(written, providers={"a": DEAR, "b": keyed})
    assert (back.provider, back.stage.sampling.providers) == (keyed, (DEAR,))
    with pytest.raises(ValueError, match=r"provider cannot be read: no provider is called 'b': give loads"):
        loads(written, providers={"a": DEAR})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a document"),
        (b"\xff", "not a document"),
        (b"[1]", "has no 'executionkit.plan'"),
        (b'{"stage": 1}', "has no 'executionkit.plan'"),
        (b'{"executionkit.plan": 2, "stage": 1}', "written as version 2; this package reads version 1"),
        (b'{"executionkit.plan": 1}', "holds no stage but NoneType"),
        (b'{"executionkit.plan": 1, "stage": {"$": "executionkit:fold"}}', "is no class"),
        (b'{"executionkit.plan": 1, "stage": {"$": "executionkit:Sampling"}}', "holds no stage but Sampling"),
        (b'{"executionkit.plan": 1, "stage": {"$": "list"}}', "'items' is missing"),
        (b'{"executionkit.plan": 1, "stage": {"$": "executionkit:Complete", "max_tokens": 0}}', "max_tokens"),
        (b'{"executionkit.plan": 1, "stage": {"$": "executionkit:Complete", "x": 0}}', "'x'"),
        (b'{"executionkit.plan": 1, "stage": {"$": 7}}', "a name must be text"),
        (b"[" * 10_000, "not a document"),
        (
            b'{"executionkit.plan": 1, "stage": ' + b"[" * 900 + b"]" * 900 + b"}",
            "nested too deeply|holds no",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_document_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loads(data)


def naming(name: str) -> str:
    stage = {"$": "executionkit:Mapped", "stage": {"$": "executionkit:Complete"}, "functions": [{"$": "ref"}]}
    cast("Any", stage["functions"])[0]["name"] = name
    return json.dumps({"executionkit.plan": 1, "stage": stage})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os:system", "'os:system' is not allowed: loads.*allow=.'os'"),
        ("builtins:eval", "is not allowed"),
        ("tests.pipelinesx:score", "is not allowed"),
        ("executionkit.mcp:mcp_tools", "is not allowed"),
        ("tests.pipelines:dt.datetime.now", "no function or class"),
        ("tests.pipelines:msgspec", "no function or class"),
        ("tests.pipelines:partial", "no function or class"),
        ("tests.pipelines:nothing", "no function or class"),
        ("tests.pipelines:score.x", "no function or class"),
        ("tests.pipelines:Own.__init__", "not the name"),
        ("tests.pipelines:__builtins__", "not the name"),
        ("tests.pipelines.deeper:score", "cannot be imported: ModuleNotFoundError"),
        ("tests.pipelines..os:system", "not the name"),
        ("tests.pipelines", "not the name"),
        (":", "not the name"),
    ],
)
def test_a_name_is_looked_up_only_where_it_is_allowed(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"functions\.0 cannot be read: .*{words}"):
        loads(naming(name), allow=HERE)
    with pytest.raises(ValueError, match="is not allowed|not the name"):
        loads(naming(name))


def test_allow_is_several_modules() -> None:
    with pytest.raises(TypeError, match=r"allow=\['tests.pipelines'\]"):
        loads(naming("tests.pipelines:score"), allow="tests.pipelines")
    assert loads(naming("tests.pipelines:score"), allow=["tests"]) == complete().map(score)


def test_a_module_that_is_allowed_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_steps.py").write_text("def shout(text):\n    return text.upper()\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    stage: Any = loads(naming("own_steps:shout"), allow=["own_steps"])
    assert stage.functions[0]("a") == "A"
    assert loads(dumps(stage), allow=["own_steps"]) == stage
    del sys.modules["own_steps"]


def test_every_known_name_is_of_something_that_only_makes_a_value() -> None:
    dangerous = {"eval", "exec", "compile", "open", "input", "breakpoint", "getattr", "setattr", "vars"}
    assert not {name.partition(":")[2] for name in KNOWN} & dangerous
    assert all(getattr(KNOWN[name], "__module__", None) != "os" for name in KNOWN)


def unloaded() -> list[str]:
    """Return modules of the standard library that nobody here has imported."""
    return sorted(name for name in sys.stdlib_module_names if name not in sys.modules and name.isidentifier())


def forms_in(form: Any) -> Iterator[tuple[Any, Any]]:
    """Return each place in a document as its container and the key there."""
    keys: Any = list(cast("Any", form)) if isinstance(form, dict) else range(len(form))
    for key in keys:
        yield form, key
        if isinstance(form[key], dict | list):
            yield from forms_in(form[key])


GOOD: Final[list[Stage[Any, Any]]] = [
    consensus(3, providers=[CHEAP]) >> refine(score).named("better") >> step(own, size=2),
    react([look, find], output_type=Town, check=rule) | structured(list[int | None]),
    (complete() & Own(("x",))).map(str).each(name=str).using(DEAR),
    refine(Judge(("a",)), draft=complete().checked(rule), improve=prompt("{value}") >> ONE),
    step(partial(own, size=3)),
]


def hostile(random: Random, names: list[str]) -> Any:
    name = random.choice(names)
    forms: list[Any] = [
        {"$": "ref", "name": name},
        {"$": name, "args": ["touch /tmp/x"], "name": "x", "value": "x"},
        {"$": "partial", "of": {"$": "ref", "name": name}, "arguments": ["echo x"], "keywords": {}},
        {
            "$": "generic",
            "of": {"$": "ref", "name": name},
            "with": [{"$": "ref", "name": "builtins:int"}],
        },
        {"$": "annotated", "of": {"$": "ref", "name": "builtins:int"}, "with": [{"$": name}]},
        {"$": "executionkit:Step", "function": {"$": "ref", "name": name}, "keywords": []},
        {"$": "executionkit:ToolFunction", "function": {"$": "ref", "name": name}},
        {"$": random.choice(["list", "set", "dict", "int", "float", "text", "bytes", "provider", "union"])},
        {"$": name, "items": [[]]},
        name,
        random.randint(-(2**63), 2**63),
        [],
        {},
        None,
    ]
    return random.choice(forms)


def names_in(form: Any) -> set[str]:
    found = {form[key] for form, key in forms_in([form]) if key == "name" and "$" in form}
    return {name for name in found if isinstance(name, str) and ":" in name}


def test_nothing_is_imported_but_what_is_allowed() -> None:
    for stage in GOOD:
        assert canonical(read_again(stage, ["tests"])) == canonical(stage)
    documents = [json.loads(dumps(stage, providers=PROVIDERS)) for stage in GOOD]
    modules = unloaded()
    assert len(modules) > 40
    names = [
        *[f"{module}:{name}" for module in modules for name in ("main", "x", "system")],
        *("os:system", "subprocess:Popen", "builtins:eval", "builtins:exec", "builtins:__import__"),
        *("pickle:loads", "importlib:import_module", "ctypes:CDLL", "executionkit.mcp:x", "sys:modules"),
        *("tests.pipelines:msgspec", "tests.pipelines:partial", "tests.pipelines:Own.perform.__globals__"),
        *["tests.pipelines:score", "executionkit:fold", "builtins:str.upper", "tests.pipelines:Own"] * 30,
        *("tests.pipelines:dt.date", "tests.pipelines:Decimal", "tests:pipelines", ".:x", "x" * 10_000),
    ]
    before = set(sys.modules)
    refused = 0
    for seed in range(DOCUMENTS):
        random = Random(seed)
        document = json.loads(json.dumps(random.choice(documents)))
        for _ in range(random.choice((1, 1, 2, 3))):
            container, key = random.choice([*forms_in(document["stage"])])
            container[key] = hostile(random, names)
        try:
            stage = loads(json.dumps(document), allow=["tests.pipelines"], providers=PROVIDERS)
        except ValueError:
            refused += 1
        else:
            named = names_in(canonical(stage, with_names=True))
            assert {name for name in named if not name.startswith("tests.pipelines:")} <= set(KNOWN), seed
        assert set(sys.modules) == before, seed
    print(f"{DOCUMENTS} documents, {refused} of them refused, and nothing imported")
    assert refused > DOCUMENTS / 2
