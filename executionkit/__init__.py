"""ExecutionKit: typed, functional LLM reasoning patterns that say what they cost.

`(consensus(n=5) >> refine(evaluator)).run(provider, prompt)` returns a `Result` that holds the answer and its
cost, or the error and its cost. The specification's own functions, which raise, are in `executionkit.compat`.
"""

TYPE_CHECKING = False  # to the checkers it is true; `typing` would take longer to import than all else here

if TYPE_CHECKING:
    from returns.result import Failure, Success

    from executionkit.compat import (
        consensus_sync,
        pipe_sync,
        react_loop_sync,
        refine_loop_sync,
        structured_sync,
    )
    from executionkit.core.dialect import Dialect
    from executionkit.core.rate_limit import RateLimit
    from executionkit.core.transcript import Transcript
    from executionkit.core.usage import TokenUsage
    from executionkit.core.voting.tally import VotingStrategy
    from executionkit.errors import (
        BudgetExhaustedError,
        ConsensusFailedError,
        DeadlineExceededError,
        ExecutionKitError,
        InvalidOutputError,
        LLMError,
        MaxIterationsError,
        PatternError,
        PermanentError,
        ProviderError,
        RateLimitError,
    )
    from executionkit.outcome import Outcome, PatternResult, as_outcome, as_result, is_failure, is_success
    from executionkit.patterns.complete import complete
    from executionkit.patterns.consensus import consensus, select
    from executionkit.patterns.prompt import prompt
    from executionkit.patterns.react import react
    from executionkit.patterns.refine import Evaluation, Evaluator, refine
    from executionkit.patterns.step import step
    from executionkit.patterns.structured import structured
    from executionkit.provider import (
        LLMProvider,
        LLMResponse,
        Message,
        ToolCall,
        ToolCallingProvider,
        ToolSpec,
    )
    from executionkit.providers.anthropic import Anthropic
    from executionkit.providers.local import LocalProvider
    from executionkit.providers.openai import Provider
    from executionkit.providers.pool import Pool
    from executionkit.providers.scripted import ScriptedProvider
    from executionkit.providers.secret import Secret
    from executionkit.retry import DEFAULT_RETRY, RetryConfig
    from executionkit.runtime.context import Context
    from executionkit.runtime.ledger.cost_tracker import CostTracker
    from executionkit.stage import Stage, identity
    from executionkit.tools import Tool, ToolError, tool

    __version__: str

__all__ = [
    "DEFAULT_RETRY",
    "Anthropic",
    "BudgetExhaustedError",
    "ConsensusFailedError",
    "Context",
    "CostTracker",
    "DeadlineExceededError",
    "Dialect",
    "Evaluation",
    "Evaluator",
    "ExecutionKitError",
    "Failure",
    "InvalidOutputError",
    "LLMError",
    "LLMProvider",
    "LLMResponse",
    "LocalProvider",
    "MaxIterationsError",
    "Message",
    "Outcome",
    "PatternError",
    "PatternResult",
    "PermanentError",
    "Pool",
    "Provider",
    "ProviderError",
    "RateLimit",
    "RateLimitError",
    "RetryConfig",
    "ScriptedProvider",
    "Secret",
    "Stage",
    "Success",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "ToolCallingProvider",
    "ToolError",
    "ToolSpec",
    "Transcript",
    "VotingStrategy",
    "as_outcome",
    "as_result",
    "complete",
    "consensus",
    "consensus_sync",
    "identity",
    "is_failure",
    "is_success",
    "pipe_sync",
    "prompt",
    "react",
    "react_loop_sync",
    "refine",
    "refine_loop_sync",
    "select",
    "step",
    "structured",
    "structured_sync",
    "tool",
]

_HOMES = {
    "compat": ("consensus_sync", "pipe_sync", "react_loop_sync", "refine_loop_sync", "structured_sync"),
    "runtime.context": ("Context",),
    "core.dialect": ("Dialect",),
    "core.rate_limit": ("RateLimit",),
    "core.transcript": ("Transcript",),
    "core.usage": ("TokenUsage",),
    "core.voting.tally": ("VotingStrategy",),
    "errors": (
        "BudgetExhaustedError",
        "ConsensusFailedError",
        "DeadlineExceededError",
        "ExecutionKitError",
        "InvalidOutputError",
        "LLMError",
        "MaxIterationsError",
        "PatternError",
        "PermanentError",
        "ProviderError",
        "RateLimitError",
    ),
    "runtime.ledger.cost_tracker": ("CostTracker",),
    "outcome": ("Outcome", "PatternResult", "as_outcome", "as_result", "is_failure", "is_success"),
    "patterns.complete": ("complete",),
    "patterns.consensus": ("consensus", "select"),
    "patterns.prompt": ("prompt",),
    "patterns.react": ("react",),
    "patterns.refine": ("Evaluation", "Evaluator", "refine"),
    "patterns.step": ("step",),
    "patterns.structured": ("structured",),
    "provider": (
        "LLMProvider",
        "LLMResponse",
        "Message",
        "ToolCall",
        "ToolCallingProvider",
        "ToolSpec",
    ),
    "providers.anthropic": ("Anthropic",),
    "providers.local": ("LocalProvider",),
    "providers.openai": ("Provider",),
    "providers.pool": ("Pool",),
    "providers.scripted": ("ScriptedProvider",),
    "providers.secret": ("Secret",),
    "retry": ("DEFAULT_RETRY", "RetryConfig"),
    "stage": ("Stage", "identity"),
    "tools": ("Tool", "ToolError", "tool"),
}
"""Which module each public name comes from."""

_ELSEWHERE = {
    "compat": ("pipe", "react_loop", "refine_loop"),
    "datasets": ("Adaptive", "Batch", "Row", "Summary", "SyncBatch"),
    "approval": ("Approve", "Deny", "Edit", "Proposal", "Stop"),
    "errors": ("EvaluationError", "InvalidPromptError", "ProviderClosedError", "StageError", "StoppedError"),
    "patterns.refine": ("Draft",),
    "stage": ("Rule",),
    "events": ("Event", "Trace", "with_content"),
    "plan": ("Amount", "Bounds"),
    "provider": ("Cooldown",),
    "runtime.context": ("MeteredProvider",),
    "voting": ("StoppingRule", "beta", "certain", "forecast", "unanimous_window"),
}
"""Names that one may well look for here, and the module that has them."""

if not TYPE_CHECKING:  # the checkers see the imports above, and refuse names that are not there

    def __getattr__(name: str) -> object:
        """Load a public name when it is asked for: the import stays light whatever the library grows by."""
        from importlib import import_module

        if name == "__version__":
            from importlib.metadata import version

            value = version("executionkit")
        elif name in ("Failure", "Success"):
            value = getattr(import_module("returns.result"), name)
        elif (home := _home_of(name, _HOMES)) is not None:
            value = getattr(import_module(f"executionkit.{home}"), name)
        elif (home := _home_of(name, _ELSEWHERE)) is not None:
            # No AttributeError: `from executionkit import ...` would put a text of its own in its place.
            raise ImportError(_direction(name, home), name=__name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """List the public names, loaded or not."""
        return sorted({*globals(), *__all__})


def _home_of(name: str, homes: dict[str, tuple[str, ...]]) -> str | None:
    return next((home for home, names in homes.items() if name in names), None)


def _direction(name: str, home: str) -> str:
    where = f"`{name}` is in executionkit.{home}: from executionkit.{home} import {name}"
    return (
        f"{where} (the package root has stages: consensus, refine, react, >>)" if home == "compat" else where
    )
