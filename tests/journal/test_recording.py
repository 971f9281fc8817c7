"""The pytest plugin: runs are recorded once as text, and replayed offline from then on."""

import json
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import executionkit

# What an inner run would be the first to import it would import anew each time.
for _name in executionkit.__all__:
    getattr(executionkit, _name)
for _name in ("executionkit.journal.recording", "executionkit.pytest_plugin", "hypothesis", "jsonschema_rs"):
    import_module(_name)

PLUGIN = [] if entry_points(group="pytest11", name="executionkit") else ["-p", "executionkit.pytest_plugin"]

PATTERNS = '''
import json
import os
import msgspec
from executionkit import LLMResponse, ToolCall, complete, consensus, react, refine, structured, tool
from executionkit.compat import consensus_sync

ASKED = []


class Number(msgspec.Struct):
    n: int


class Live:
    supports_tools = True
    model = "m"

    async def complete(self, messages, **options):
        if os.environ.get("OFFLINE"):
            raise AssertionError("somebody went to the network")
        ASKED.append(messages)
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        text = str(messages[-1]["content"])
        if options.get("tools") and len(messages) < 2:
            return LLMResponse("", (ToolCall("1", "add", {"left": 1, "right": 2}),), "tool_calls", usage)
        if "response_format" in options:
            return LLMResponse('{"n": 3}', usage=usage)
        return LLMResponse(f"Response {len(ASKED) % 3} Score: 7", usage=usage)


added = []


@tool
def add(left: int, right: int) -> int:
    """Add."""
    added.append(left + right)
    return left + right


def test_patterns(recorded):
    provider = recorded(Live())
    stages = [
        complete(),
        consensus(5),
        refine(max_iterations=1),
        react([add]),
        structured(Number).map(lambda number: number.n),
        consensus(3) >> refine(max_iterations=1),
    ]
    outcomes = [stage.run_sync(provider, "question").unwrap().to_dict() for stage in stages]
    said = json.dumps(outcomes, sort_keys=True)
    print(f"SAID {said}")
    assert added == [3], "tools run in a test, recorded or not"


def test_facade(recorded):
    assert consensus_sync(recorded(Live()), "question", num_samples=3).cost.llm_calls == 3
'''


def said(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("SAID")]


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(
        "-q", "-s", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *PLUGIN, *arguments
    )


def test_patterns_are_recorded_once_and_replayed_offline_byte_for_byte(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(PATTERNS)
    live = run(pytester, "--record=once")
    live.assert_outcomes(passed=2)
    monkeypatch.setenv("OFFLINE", "1")
    for mode in ("none", "once", "new"):
        replayed = run(pytester, f"--record={mode}")
        replayed.assert_outcomes(passed=2)
        assert said(replayed) == said(live)
        assert said(live)
    run(pytester).assert_outcomes(passed=2)  # the default asks nobody


def test_the_text_is_readable(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(PATTERNS)
    run(pytester, "--record=all").assert_outcomes(passed=2)
    text = (pytester.path / "recordings" / path.stem / "test_facade.json").read_text()
    data = json.loads(text)
    calls = data["runs"][0]
    assert [call["path"] for call in calls] == [[0], [1], [2]], "identical requests are told apart"
    assert calls[0]["asked"]["messages"] == [{"role": "user", "content": "question"}]
    assert calls[0]["found"]["reply"]["content"].startswith("Response")
    assert text.startswith('{\n  "executionkit": 1,\n')


ALIKE = """
import pytest
from executionkit import ScriptedProvider, complete


def asks(recorded, text):
    outcome = complete().run_sync(recorded(ScriptedProvider([f"an answer to {text}"])), text)
    assert outcome.unwrap().value == f"an answer to {text}"


class TestA:
    def test_one(self, recorded):
        asks(recorded, "A")

    class TestB:
        def test_one(self, recorded):
            asks(recorded, "A, B")


class TestB:
    def test_one(self, recorded):
        asks(recorded, "B")


def test_p_a(recorded):
    asks(recorded, "p a")


@pytest.mark.parametrize("x", ["a", "a/b", "a:b", "a b", "a_b", "_a_b_", "../../up", "ä", "", "x" * 300, "x" * 301])
def test_p(recorded, x):
    asks(recorded, f"p {x}!")
"""


def test_each_test_has_a_text_of_its_own_whatever_it_is_called(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(ALIKE)
    run(pytester, "--record=once").assert_outcomes(passed=15)
    run(pytester).assert_outcomes(passed=15)
    found = [each.name for each in (pytester.path / "recordings" / path.stem).iterdir()]
    assert len(found) == 15
    assert {"TestA.test_one.json", "TestA.TestB.test_one.json", "test_p_a.json", "test_p[a].json"} < {*found}
    assert all(len(name.encode()) < 200 for name in found)


NOT_SENT = """
import anyio
import pytest
from executionkit import LLMResponse, PermanentError, TokenUsage, complete, consensus


class Live:
    model = "m"

    async def complete(self, messages, **options):
        if "fails" in str(messages):
            raise PermanentError("no")
        if "waits" in str(messages):
            await anyio.sleep_forever()
        return LLMResponse("Paris", usage={"prompt_tokens": 1, "completion_tokens": 1})


def test_a_budget(recorded):
    outcome = consensus(5).run_sync(recorded(Live()), "x", max_cost=TokenUsage(llm_calls=2))
    assert outcome.failure().cost.llm_calls == 2
    assert "budget" in str(outcome.failure())


@pytest.mark.parametrize("backwards", [False, True])
def test_a_failure_beside_it(recorded, backwards):
    waits, fails = complete(system="waits"), complete(system="fails")
    both = fails & waits if backwards else waits & fails
    assert "no (m)" in str(both.run_sync(recorded(Live()), "x").failure())
"""


def test_what_was_refused_or_broken_off_need_not_be_recorded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NOT_SENT)
    run(pytester, "--record=once").assert_outcomes(passed=3)
    run(pytester).assert_outcomes(passed=3)


ONE = """
from executionkit import ScriptedProvider, complete

def test_one(recorded):
    outcome = complete().run_sync(recorded(ScriptedProvider(["Paris"])), "PROMPT")
    print(outcome)
"""


def test_a_changed_prompt_fails_with_the_difference(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(ONE)
    run(pytester, "--record=once").assert_outcomes(passed=1)
    path.write_text(path.read_text().replace("PROMPT", "Another prompt"))
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=1)  # the test does not look at its outcome: the fixture does
    result.stdout.fnmatch_lines(
        ["*asks something else than what is recorded*", "*-*PROMPT*", "*+*Another prompt*"]
    )
    result.stdout.no_fnmatch_line("*paid again*")
    run(pytester, "--record=once").assert_outcomes(passed=1, errors=1)
    run(pytester, "--record=new").assert_outcomes(passed=1)
    run(pytester).assert_outcomes(passed=1)


def test_what_is_not_recorded_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ONE)
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*is not recorded*", "*pytest --record=new*"])
    assert not (pytester.path / "recordings").exists()


def test_the_configuration_can_say_the_mode(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ONE)
    pytester.makeini("[pytest]\nexecutionkit_record = once\n")
    run(pytester).assert_outcomes(passed=1)
    pytester.makeini("[pytest]\nexecutionkit_record = twice\n")
    run(pytester).assert_outcomes(errors=1)


def test_a_recording_that_is_none_is_told(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(ONE)
    run(pytester, "--record=once").assert_outcomes(passed=1)
    text = pytester.path / "recordings" / path.stem / "test_one.json"
    text.write_text('{"executionkit": 7}')
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*another version*pytest --record=all*"])
    text.write_text("no JSON")
    run(pytester).stdout.fnmatch_lines(["*is no recording*pytest --record=all*"])
    run(pytester, "--record=all").assert_outcomes(passed=1)


def test_a_call_outside_a_run_is_recorded_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import anyio
        import pytest
        from executionkit import ProviderError, ScriptedProvider, complete
        from executionkit.journal import Journal

        MESSAGES = [{"role": "user", "content": "question"}]

        def test_direct(recorded):
            provider = recorded(ScriptedProvider(["Paris", ProviderError("busy", retryable=False)]))
            assert provider.requests is not None
            assert anyio.run(provider.complete, MESSAGES).content == "Paris"
            with pytest.raises(ProviderError, match="busy"):
                anyio.run(provider.complete, MESSAGES)

        def test_a_journal_beside_it_is_one_too_many(recorded, tmp_path):
            with Journal(tmp_path / "a.db") as journal, pytest.raises(ValueError, match="recorded already"):
                complete().run_sync(recorded(ScriptedProvider(["a"])), "question", journal=journal.run("a"))
        """
    )
    run(pytester, "--record=once").assert_outcomes(passed=2)
    run(pytester).assert_outcomes(passed=2)


def test_the_plugin_is_an_entry_point() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\nexecutionkit = "executionkit.pytest_plugin"' in text
