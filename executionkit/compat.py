"""The specification as written: async functions that return a `PatternResult` and raise what goes wrong.

Each function builds the native stage, runs it and raises what it returns; each `_sync` twin does so on an
event loop of its own. Errors raised are fresh copies, so that no traceback grows on a stored one.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial, wraps
from inspect import getdoc
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from returns.result import Failure
from typing_extensions import TypeForm

from executionkit.core.checks import check_count
from executionkit.core.usage import TokenUsage
from executionkit.core.voting.tally import VotingStrategy
from executionkit.errors import (
    BudgetExhaustedError,
    ConsensusFailedError,
    ExecutionKitError,
    LLMError,
    MaxIterationsError,
    PatternError,
    PermanentError,
    ProviderError,
    RateLimitError,
)
from executionkit.outcome import Outcome, PatternResult
from executionkit.patterns.consensus import consensus as consensus_stage
from executionkit.patterns.react import react as react_stage
from executionkit.patterns.refine import Evaluator, refine
from executionkit.patterns.step import StepFunction, steps_of
from executionkit.patterns.structured import structured as structured_stage
from executionkit.provider import (
    DEFAULT_MAX_TOKENS,
    LLMProvider,
    LLMResponse,
    ToolCall,
    ToolCallingProvider,
    supports_tools,
)
from executionkit.retry import DEFAULT_RETRY, RetryConfig
from executionkit.runtime.ledger.cost_tracker import CostTracker
from executionkit.runtime.tasks.event_loops import in_new_loop
from executionkit.stage import Pipeline
from executionkit.system import System
from executionkit.tools import Tool

if TYPE_CHECKING:
    from executionkit.providers.openai import Provider

__all__ = [
    "DEFAULT_RETRY",
    "BudgetExhaustedError",
    "ConsensusFailedError",
    "CostTracker",
    "ExecutionKitError",
    "LLMError",
    "LLMProvider",
    "LLMResponse",
    "MaxIterationsError",
    "PatternError",
    "PatternResult",
    "PermanentError",
    "Provider",
    "ProviderError",
    "RateLimitError",
    "RetryConfig",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "ToolCallingProvider",
    "VotingStrategy",
    "consensus",
    "consensus_sync",
    "pipe",
    "pipe_sync",
    "react_loop",
    "react_loop_sync",
    "refine_loop",
    "refine_loop_sync",
    "structured",
    "structured_sync",
]

P = ParamSpec("P")
T = TypeVar("T")

Strategy: TypeAlias = VotingStrategy | Literal["majority", "unanimous"]


async def consensus(
    provider: LLMProvider,
    prompt: str,
    *,
    num_samples: int = 5,
    strategy: Strategy = VotingStrategy.MAJORITY,
    temperature: float | None = 0.9,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_concurrency: int = 5,
    max_cost: TokenUsage | None = None,
    retry: RetryConfig | None = None,
    system: System[str] | None = None,
) -> PatternResult[str]:
    """Ask `num_samples` times and return the answer given most often; the score is its share of the votes.

    Args:
        provider: The model to ask.
        prompt: What to ask it.
        num_samples: Samples to draw.
        strategy: `"majority"`, or `"unanimous"`, which fails on any difference.
        temperature: Sampling temperature, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most, a sample.
        max_concurrency: Samples in flight at once.
        max_cost: The budget; 0 in a field means no limit there.
        retry: How transient failures are retried; `DEFAULT_RETRY` if None.
        system: What the model is told before the prompt, in every request: text, or a function of the
            prompt.

    Metadata:
        agreement_ratio (float): The winner's share of the samples.
        unique_responses (int): Different answers.
        tie_count (int): Answers that share the most votes; 1 is a clean win.
        vote_counts (mapping of str to int): Votes by answer.
        samples (int): Samples that came back.
        saved (int): Samples not asked for; 0 here.
        abstentions (int): Samples that did not vote: refused, or cut off by a content filter.
        rounds (int): How often samples were asked for; 1 here.
        stop_rule (str): `"none"`: all samples are drawn.
        stop_bound (float): 1.0, since no rule decided.

    Raises:
        ConsensusFailedError: A unanimous vote with any difference, or no sample voted.
        BudgetExhaustedError: The next call would not fit the budget.
        LLMError: A sample failed for good.
        ValueError: An argument is out of range.
        TypeError: An argument is of the wrong type.
    """
    check_count("num_samples", num_samples)
    stage = consensus_stage(
        num_samples,
        strategy=strategy,
        temperature=temperature,
        max_tokens=max_tokens,
        max_concurrency=max_concurrency,
        system=system,
    )
    return _raising(await stage.run(provider, prompt, max_cost=max_cost, retry=retry))


async def refine_loop(
    provider: LLMProvider,
    prompt: str,
    *,
    evaluator: Evaluator | None = None,
    target_score: float = 0.9,
    max_iterations: int = 5,
    patience: int = 3,
    delta_threshold: float = 0.01,
    temperature: float | None = 0.7,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_eval_chars: int = 32_768,
    max_cost: TokenUsage | None = None,
    retry: RetryConfig | None = None,
    system: System[str] | None = None,
) -> PatternResult[str]:
    """Draft, score and improve; return the best draft ever seen with its score.

    Args:
        provider: The model to ask.
        prompt: The task.
        evaluator: `async (text, provider)`, returns a score from 0 to 1; None for the built-in judge.
        target_score: Good enough, 0 to 1.
        max_iterations: Rounds after the first draft.
        patience: Rounds in a row without a gain after which to stop.
        delta_threshold: What a score must exceed the best one by to be a gain.
        temperature: Sampling temperature of the drafts, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most, a draft or a judgement.
        max_eval_chars: Characters of a draft that the built-in judge gets to see.
        max_cost: The budget; 0 in a field means no limit there.
        retry: How transient failures are retried; `DEFAULT_RETRY` if None.
        system: What the model is told before the prompt, in every request but those of the judge: text, or a
            function of the prompt.

    Metadata:
        iterations (int): Rounds after the first draft.
        converged (bool): Whether it stopped at the target or because nothing got better.
        score_history (tuple of float): Every score, the first draft's first.
        refusal (str): Where the best draft is none: the text of the refusal, or `"content_filter"`.

    Raises:
        EvaluationError: The evaluator or the judge gave no score, or a content filter cut in on it.
        BudgetExhaustedError: The next call would not fit the budget.
        LLMError: A call failed for good.
        ValueError: An argument is out of range.
        TypeError: An argument is of the wrong type.
    """
    stage = refine(
        evaluator,
        target_score=target_score,
        max_iterations=max_iterations,
        patience=patience,
        delta_threshold=delta_threshold,
        temperature=temperature,
        max_tokens=max_tokens,
        max_eval_chars=max_eval_chars,
        system=system,
    )
    return _raising(await stage.run(provider, prompt, max_cost=max_cost, retry=retry))


async def react_loop(
    provider: LLMProvider,
    prompt: str,
    tools: Sequence[Tool],
    *,
    max_rounds: int = 8,
    max_observation_chars: int = 12_000,
    tool_timeout: float | None = None,
    temperature: float | None = 0.3,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_history_messages: int | None = None,
    max_cost: TokenUsage | None = None,
    retry: RetryConfig | None = None,
    system: System[str] | None = None,
) -> PatternResult[str]:
    """Let the model call tools until it answers; return the final text.

    Args:
        provider: The model to ask; it must say `supports_tools = True`.
        prompt: The task.
        tools: What the model may call; names must differ.
        max_rounds: Completions at most.
        max_observation_chars: Characters of a result that the model gets to see.
        tool_timeout: Seconds a call may take, in place of each tool's own.
        temperature: Sampling temperature, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most, a completion.
        max_history_messages: Messages to send at most; None sends all.
        max_cost: The budget; 0 in a field means no limit there.
        retry: How transient failures are retried; `DEFAULT_RETRY` if None.
        system: What the model is told before the prompt, in every request: text, or a function of the
            prompt.

    Metadata:
        rounds (int): Completions.
        tool_calls_made (int): Calls asked for, failed ones included.
        truncated_responses (int): Completions cut at `max_tokens`.
        truncated_observations (int): Results cut at `max_observation_chars`.
        messages_trimmed (int): Messages dropped from the conversation.
        transcript (Transcript): The whole conversation, for the native `react` to go on from.
        refusal (str): Where the value is no answer: the text of the refusal, or `"content_filter"`.

    Raises:
        MaxIterationsError: No answer after `max_rounds`.
        BudgetExhaustedError: The next call would not fit the budget.
        LLMError: A call failed for good.
        ValueError: An argument is out of range, or two tools share a name.
        TypeError: The provider does not say `supports_tools = True`; an argument is of the wrong type.
    """
    if not supports_tools(provider):
        raise TypeError(
            f"{type(provider).__name__} does not say supports_tools = True; react_loop needs that"
        )
    stage = react_stage(
        tools,
        max_rounds=max_rounds,
        max_observation_chars=max_observation_chars,
        tool_timeout=tool_timeout,
        temperature=temperature,
        max_tokens=max_tokens,
        max_history_messages=max_history_messages,
        system=system,
    )
    return _raising(await stage.run(provider, prompt, max_cost=max_cost, retry=retry))


async def structured(
    provider: LLMProvider,
    prompt: str,
    output_type: TypeForm[T],
    *,
    output_retries: int = 2,
    temperature: float | None = 0.0,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_cost: TokenUsage | None = None,
    retry: RetryConfig | None = None,
    system: System[str] | None = None,
) -> PatternResult[T]:
    """Ask for an answer of a type and return it decoded. Beyond the specification, in the spirit of the four.

    Args:
        provider: The model to ask.
        prompt: The task.
        output_type: Any type that msgspec decodes.
        output_retries: Answers asked for after the first, each told what was wrong with the one before.
        temperature: Sampling temperature, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most, an answer.
        max_cost: The budget; 0 in a field means no limit there.
        retry: How transient failures are retried; `DEFAULT_RETRY` if None.
        system: What the model is told before the prompt, in every request: text, or a function of the
            prompt.

    Metadata:
        attempts (int): Answers read.
        reasons (tuple of str): Why each answer before the last was refused.
        response_format (str): The form that was asked for last.
        last_text (str): On an error: the last answer.
        refusal (str): On an error where the last answer was none: the refusal, or `"content_filter"`.

    Raises:
        InvalidOutputError: No answer decoded; one that was refused or filtered never does.
        BudgetExhaustedError: The next call would not fit the budget.
        LLMError: A call failed for good.
        ValueError: An argument is out of range.
        TypeError: An argument is of the wrong type, or msgspec does not decode `output_type`.
    """
    stage = structured_stage(
        output_type,
        output_retries=output_retries,
        temperature=temperature,
        max_tokens=max_tokens,
        system=system,
    )
    return _raising(await stage.run(provider, prompt, max_cost=max_cost, retry=retry))


async def pipe(
    provider: LLMProvider,
    prompt: str,
    *steps: StepFunction[Any],
    max_budget: TokenUsage | None = None,
    **shared: Any,
) -> PatternResult[Any]:
    """Chain steps: `str` of each value is the next prompt, and one budget bounds them all.

    Args:
        provider: The model to ask.
        prompt: The first step's prompt.
        *steps: `async (provider, prompt, **keywords) -> PatternResult`; `functools.partial` binds keywords,
            which beat shared ones; of budgets (`max_cost`, and what is left of `max_budget`) the tightest
            holds. With no steps the prompt itself comes back at no cost.
        max_budget: The budget of all steps together; 0 in a field means no limit there.
        **shared: Keywords for the steps that take them.

    Metadata:
        step_count (int): How many steps there were.
        step_metadata, step_costs (tuple): One entry a step.
        The last step's keys.

    Raises:
        ExecutionKitError: What a step raised; whatever else one raises is wrapped in a `StageError`.
        ValueError: The budget is negative; a shared `temperature` or `max_tokens` is out of range.
        TypeError: A shared keyword that no step takes; a step that is no function.
    """
    if max_budget is not None and not _is_budget(max_budget):
        raise TypeError(
            f"max_budget must be a TokenUsage, as TokenUsage(llm_calls=9), not {max_budget!r:.60}"
        )
    stages = steps_of(steps, shared)
    return _raising(await Pipeline[str, Any](stages).run(provider, prompt, max_cost=max_budget))


def _is_budget(budget: object) -> bool:
    return isinstance(budget, TokenUsage)


def _raising(outcome: Outcome[T]) -> PatternResult[T]:
    """Return the result, or raise the error: a fresh copy, since raising grows a traceback."""
    if isinstance(outcome, Failure):
        error = outcome.failure()
        raise error.stamped(error.cost) from error.__cause__
    return outcome.unwrap()


def _sync_twin(
    function: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[[Callable[[], None]], Callable[P, T]]:
    """Make a named and documented stub the twin that runs `function` to the end on an event loop of its own.

    Called inside a running event loop the twin raises `RuntimeError`, before any coroutine is made.
    """

    def decorate(stub: Callable[[], None]) -> Callable[P, T]:
        @wraps(function)
        def twin(*args: P.args, **kwargs: P.kwargs) -> T:
            remedy = f"use `await {function.__name__}(...)` there"
            return in_new_loop(partial(function, *args, **kwargs), stub.__name__, remedy)

        twin.__name__, twin.__qualname__ = stub.__name__, stub.__qualname__
        twin.__doc__ = f"{stub.__doc__}\n\n{getdoc(function)}"
        return twin

    return decorate


@_sync_twin(consensus)
def consensus_sync() -> None:
    """Call `consensus` from code that is not async; `RuntimeError` inside a running event loop."""


@_sync_twin(pipe)
def pipe_sync() -> None:
    """Call `pipe` from code that is not async; `RuntimeError` inside a running event loop."""


@_sync_twin(react_loop)
def react_loop_sync() -> None:
    """Call `react_loop` from code that is not async; `RuntimeError` inside a running event loop."""


@_sync_twin(refine_loop)
def refine_loop_sync() -> None:
    """Call `refine_loop` from code that is not async; `RuntimeError` inside a running event loop."""


@_sync_twin(structured)
def structured_sync() -> None:
    """Call `structured` from code that is not async; `RuntimeError` inside a running event loop."""


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load `Provider` when it is asked for: it costs as much to import as all the rest."""
        if name == "Provider":
            from executionkit.providers.openai import Provider

            return Provider
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
