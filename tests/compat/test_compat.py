"""The facade, part 1 of the contract: names, signatures, values, errors and twins."""

import copy
import inspect
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from anyio import lowlevel

import executionkit
from executionkit import ScriptedProvider, compat
from executionkit.compat import (
    CostTracker,
    LLMProvider,
    LLMResponse,
    PatternResult,
    Provider,
    RateLimitError,
    RetryConfig,
    TokenUsage,
    Tool,
    ToolCall,
    ToolCallingProvider,
    VotingStrategy,
)
from executionkit.errors import StageError
from tests.doubles import shown

REQUIRED = inspect.Parameter.empty
COMMON: dict[str, object] = {"max_tokens": 4096, "max_cost": None, "retry": None, "system": None}
KEYWORDS: dict[str, dict[str, object]] = {
    "consensus": {
        "num_samples": 5,
        "strategy": "majority",
        "temperature": 0.9,
        "max_concurrency": 5,
        **COMMON,
    },
    "refine_loop": {
        "evaluator": None,
        "target_score": 0.9,
        "max_iterations": 5,
        "patience": 3,
        "delta_threshold": 0.01,
        "temperature": 0.7,
        "max_eval_chars": 32768,
        **COMMON,
    },
    "react_loop": {
        "tools": REQUIRED,
        "max_rounds": 8,
        "max_observation_chars": 12000,
        "tool_timeout": None,
        "temperature": 0.3,
        "max_history_messages": None,
        **COMMON,
    },
    "pipe": {"max_budget": None},
    "structured": {"output_type": REQUIRED, "output_retries": 2, "temperature": 0.0, **COMMON},
}
"""The table of the contract, and one function beyond it in its spirit."""

METADATA = {
    "consensus": {"agreement_ratio", "unique_responses", "tie_count"},
    "refine_loop": {"iterations", "converged", "score_history"},
    "react_loop": {
        "rounds",
        "tool_calls_made",
        "truncated_responses",
        "truncated_observations",
        "messages_trimmed",
    },
    "pipe": {"step_count", "step_metadata", "step_costs"},
    "structured": {"attempts", "reasons", "response_format"},
}
NAMES = {
    *("PatternResult", "TokenUsage", "RetryConfig", "DEFAULT_RETRY", "VotingStrategy", "Tool", "CostTracker"),
    *("LLMProvider", "ToolCallingProvider", "LLMResponse", "ToolCall", "Provider"),
    *("ExecutionKitError", "LLMError", "RateLimitError", "PermanentError", "ProviderError"),
    *("PatternError", "BudgetExhaustedError", "ConsensusFailedError", "MaxIterationsError"),
    *KEYWORDS,
    *(f"{name}_sync" for name in KEYWORDS),
}
TREE = {
    "ExecutionKitError": "Exception",
    "LLMError": "ExecutionKitError",
    "RateLimitError": "LLMError",
    "PermanentError": "LLMError",
    "ProviderError": "LLMError",
    "PatternError": "ExecutionKitError",
    "BudgetExhaustedError": "PatternError",
    "ConsensusFailedError": "PatternError",
    "MaxIterationsError": "PatternError",
}


async def echo(text: str) -> str:
    return text


TOOL = Tool("echo", "Says it again.", {"type": "object"}, echo)
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "consensus": (),
    "refine_loop": (),
    "react_loop": ([TOOL],),
    "pipe": (compat.consensus,),
    "structured": (int,),
}


def agreeable() -> ScriptedProvider:
    """A model that any of the functions can finish with."""
    return ScriptedProvider("10")


def test_every_name_can_be_imported_from_the_facade() -> None:
    assert set(compat.__all__) >= NAMES
    for name in compat.__all__:
        assert getattr(compat, name) is not None


def test_twins_values_and_errors_are_in_the_root_too() -> None:
    functions = set(KEYWORDS)
    for name in NAMES - functions:
        assert getattr(executionkit, name) is getattr(compat, name), name
    assert not inspect.iscoroutinefunction(executionkit.consensus)  # the native stage


@pytest.mark.parametrize("name", KEYWORDS)
def test_arguments_and_defaults_are_the_table(name: str) -> None:
    parameters = dict(inspect.signature(getattr(compat, name)).parameters)
    assert list(parameters)[:2] == ["provider", "prompt"]
    rest = {key: each for key, each in parameters.items() if key not in {"provider", "prompt"}}
    if name == "pipe":
        assert rest.pop("steps").kind is inspect.Parameter.VAR_POSITIONAL
        assert rest.pop("shared").kind is inspect.Parameter.VAR_KEYWORD
    assert {key: each.default for key, each in rest.items()} == KEYWORDS[name]


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_twin_is_the_function_without_await(name: str) -> None:
    function, twin = getattr(compat, name), getattr(compat, f"{name}_sync")
    assert inspect.iscoroutinefunction(function)
    assert not inspect.iscoroutinefunction(twin)
    assert inspect.signature(twin) == inspect.signature(function)
    assert twin.__name__ == f"{name}_sync"
    assert (inspect.getdoc(function) or "undocumented") in (inspect.getdoc(twin) or "")
    assert pickle.loads(pickle.dumps(twin)) is twin


@pytest.mark.parametrize("name", KEYWORDS)
def test_the_metadata_holds_the_keys_of_the_table_and_each_is_documented(name: str) -> None:
    twin: Callable[..., PatternResult[Any]] = getattr(compat, f"{name}_sync")
    keys = set(twin(agreeable(), "a task", *ARGUMENTS[name]).metadata)
    assert keys >= METADATA[name]
    if name != "pipe":  # it adds the last step's keys
        documented = inspect.getdoc(getattr(compat, name)) or ""
        assert not [key for key in keys if f"{key} (" not in documented]


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_twin_returns_what_the_function_returns_call_after_call(name: str) -> None:
    twin: Callable[..., PatternResult[Any]] = getattr(compat, f"{name}_sync")
    provider = agreeable()
    first = twin(provider, "a task", *ARGUMENTS[name])
    assert twin(provider, "a task", *ARGUMENTS[name]) == first
    assert first.cost.llm_calls == len(provider.requests) / 2


@pytest.mark.anyio
@pytest.mark.parametrize("name", KEYWORDS)
async def test_a_function_returns_what_its_twin_returns(name: str) -> None:
    function, twin = getattr(compat, name), getattr(compat, f"{name}_sync")
    result = await function(agreeable(), "a task", *ARGUMENTS[name])
    told = (
        rf"{name}_sync cannot be called inside a running \w+ event loop; use `await {name}\(\.\.\.\)` there"
    )
    with pytest.raises(RuntimeError, match=told):
        twin(agreeable(), "a task", *ARGUMENTS[name])
    await lowlevel.checkpoint()
    assert isinstance(result, PatternResult)
    assert result.cost.llm_calls >= 1


@pytest.mark.anyio
@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"provider": object()}, TypeError),
        ({"prompt": ""}, ValueError),
        ({"prompt": "  \n"}, ValueError),
        ({"max_tokens": 0}, ValueError),
        ({"max_tokens": "many"}, TypeError),
        ({"temperature": -0.1}, ValueError),
        ({"temperature": float("nan")}, ValueError),
        ({"temperature": "hot"}, TypeError),
        ({"max_cost": TokenUsage(llm_calls=-1)}, ValueError),
        ({"max_cost": 5}, TypeError),
        ({"retry": 3}, TypeError),
        ({"no_such": 3}, TypeError),
    ],
    ids=shown,
)
async def test_wrong_arguments_are_refused_before_any_call(
    name: str, wrong: dict[str, Any], kind: type[Exception]
) -> None:
    provider = agreeable()
    arguments = {"provider": provider, "prompt": "a task", **wrong}
    steps = (compat.refine_loop,) if name == "pipe" else ARGUMENTS[name]
    in_a_step = name == "pipe" and set(wrong) & {"max_tokens", "temperature"}
    with pytest.raises((StageError, kind) if in_a_step else kind):
        await getattr(compat, name)(arguments.pop("provider"), arguments.pop("prompt"), *steps, **arguments)
    assert provider.requests == []


@pytest.mark.anyio
@pytest.mark.parametrize("name", sorted(set(KEYWORDS) - {"pipe"}))
async def test_a_prompt_that_is_not_text_is_refused_before_any_call(name: str) -> None:
    provider = agreeable()
    with pytest.raises(ValueError, match="a prompt must be text, not int"):
        await getattr(compat, name)(provider, 7, *ARGUMENTS[name])
    assert provider.requests == []


@pytest.mark.parametrize("name", TREE)
def test_the_error_tree(name: str) -> None:
    kind: Any = getattr(compat, name)
    assert [base.__name__ for base in kind.__bases__] == [TREE[name]]
    error = kind("went wrong", cost=TokenUsage(1, 2, 3), metadata={"votes": ["a"]})
    assert (str(error), error.cost, error.metadata["votes"]) == ("went wrong", TokenUsage(1, 2, 3), ("a",))
    assert isinstance(error.metadata, MappingProxyType)
    assert (kind("no cost").cost, dict(kind("no cost").metadata)) == (TokenUsage(), {})
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert again == error
        assert type(again) is kind
    with pytest.raises(TypeError):
        kind("positional", TokenUsage())


def test_a_rate_limit_says_how_long_to_wait() -> None:
    assert RateLimitError("busy").retry_after == 1.0
    assert RateLimitError("busy", retry_after=7.5).retry_after == 7.5


def test_a_result_is_frozen_from_construction_on() -> None:
    votes = ["a", "b"]
    given = {"votes": votes, "nested": {"deep": [1, [2]]}}
    result = PatternResult("a", metadata=given)
    votes.append("c")
    given["more"] = 1  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    assert result.metadata["votes"] == ("a", "b")
    assert result.metadata["nested"]["deep"] == (1, (2,))
    assert "more" not in result.metadata
    assert isinstance(result.metadata, MappingProxyType)
    for field in ("value", "score", "cost", "metadata"):
        with pytest.raises(AttributeError):
            setattr(result, field, None)
    with pytest.raises(TypeError):
        result.metadata["votes"] = ()  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


def test_a_result_is_a_value() -> None:
    plain = PatternResult("a")
    assert (plain.score, plain.cost, dict(plain.metadata)) == (None, TokenUsage(), {})
    result = PatternResult("a", 0.5, TokenUsage(1, 2, 3), MappingProxyType({"votes": ["a"]}))
    again = PatternResult("a", score=0.5, cost=TokenUsage(1, 2, 3), metadata={"votes": ("a",)})
    assert result == again
    assert hash(result) == hash(again)
    assert len({result, again}) == 1
    for copied in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
        assert copied == result
    assert str(PatternResult(3)) == "3"
    assert result != PatternResult("b", 0.5, TokenUsage(1, 2, 3), {"votes": ["a"]})


def test_usage_adds_and_subtracts_field_by_field() -> None:
    assert TokenUsage() == TokenUsage(input_tokens=0, output_tokens=0, llm_calls=0)
    assert TokenUsage(1, 2, 3) + TokenUsage(10, 20, 30) == TokenUsage(11, 22, 33)
    assert TokenUsage(11, 22, 33) - TokenUsage(1, 2, 3) == TokenUsage(10, 20, 30)
    with pytest.raises(AttributeError):
        TokenUsage().llm_calls = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_retry_defaults() -> None:
    config = RetryConfig()
    assert (config.max_retries, config.base_delay, config.max_delay) == (3, 1.0, 60.0)
    assert config.exponential_base == 2.0
    assert config.retryable == (RateLimitError, compat.ProviderError)
    assert config == compat.DEFAULT_RETRY
    with pytest.raises(AttributeError):
        config.max_retries = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_strategies_and_tools() -> None:
    assert {each.value for each in VotingStrategy} == {"majority", "unanimous"}
    tool = Tool("echo", "Says it again.", {"type": "object"}, echo)
    assert (tool.name, tool.description, tool.timeout) == ("echo", "Says it again.", 30.0)
    assert (tool.parameters, tool.execute) == ({"type": "object"}, echo)


def test_the_tracker_counts_in_two_phases() -> None:
    tracker = CostTracker()
    response = LLMResponse("hi", usage={"prompt_tokens": 7, "completion_tokens": 2})
    tracker.reserve_call()
    assert (tracker.call_count, tracker.total_tokens) == (1, 0)
    tracker.record_without_call(response)
    assert tracker.to_usage() == tracker.snapshot() == TokenUsage(7, 2, 1)
    tracker.record(response)
    tracker.add_usage(TokenUsage(1, 1, 1))
    assert (tracker.to_usage(), tracker.total_tokens) == (TokenUsage(15, 5, 3), 20)


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": 7, "completion_tokens": 2}, {"input_tokens": 7, "output_tokens": 2}],
    ids=["openai", "anthropic"],
)
def test_a_response_reads_both_dialects(usage: dict[str, int]) -> None:
    response = LLMResponse("hi", usage=usage)
    assert (response.input_tokens, response.output_tokens, response.total_tokens) == (7, 2, 9)
    assert (response.has_tool_calls, response.was_truncated, response.raw) == (False, False, None)
    assert (response.finish_reason, response.tool_calls, dict(LLMResponse("hi").usage)) == ("stop", (), {})
    cut = LLMResponse("", (ToolCall("1", "echo", {"text": "x"}),), finish_reason="length")
    assert (cut.has_tool_calls, cut.was_truncated, cut.tool_calls[0].arguments) == (True, True, {"text": "x"})


def test_a_provider_is_anything_of_its_shape() -> None:
    class Shaped:
        async def complete(self, messages: list[dict[str, Any]], **options: Any) -> LLMResponse:
            return LLMResponse("hi")

    class Calling(Shaped):
        supports_tools = True

    assert isinstance(Shaped(), LLMProvider)
    assert not isinstance(object(), LLMProvider)
    assert isinstance(Calling(), ToolCallingProvider)
    assert not isinstance(Shaped(), ToolCallingProvider)
    complete = inspect.signature(LLMProvider.complete).parameters
    assert {name: complete[name].default for name in ("temperature", "max_tokens", "tools")} == {
        "temperature": None,
        "max_tokens": None,
        "tools": None,
    }
    assert complete["kwargs"].kind is inspect.Parameter.VAR_KEYWORD


def test_the_http_provider_has_the_arguments_of_the_contract() -> None:
    parameters = inspect.signature(Provider).parameters
    assert list(parameters)[:6] == [
        *("base_url", "model", "api_key", "default_temperature", "default_max_tokens", "timeout")
    ]
    assert [parameters[name].default for name in list(parameters)[2:6]] == ["", 0.7, 4096, 120.0]
    assert all(each.default is not REQUIRED for each in list(parameters.values())[2:])
