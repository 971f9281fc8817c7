"""ExecutionKit: typed, functional LLM reasoning patterns that say what they cost.

`(consensus(n=5) >> refine(evaluator)).run(provider, prompt)` returns a `Result` that holds the answer and its
cost, or the error and its cost. The specification's own functions, which raise, are in `executionkit.compat`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from executionkit.compat import consensus_sync, pipe_sync, react_loop_sync, refine_loop_sync
    from executionkit.context import Context, MeteredProvider
    from executionkit.core.usage import TokenUsage
    from executionkit.core.voting import VotingStrategy
    from executionkit.errors import (
        BudgetExhaustedError,
        ConsensusFailedError,
        DeadlineExceededError,
        EvaluationError,
        ExecutionKitError,
        InvalidOutputError,
        InvalidPromptError,
        LLMError,
        MaxIterationsError,
        PatternError,
        PermanentError,
        ProviderClosedError,
        ProviderError,
        RateLimitError,
        StageError,
    )
    from executionkit.events import Event, Trace, with_content
    from executionkit.ledger import CostTracker
    from executionkit.outcome import Outcome, PatternResult, as_outcome, is_failure, is_success
    from executionkit.patterns.complete import complete
    from executionkit.patterns.consensus import consensus
    from executionkit.patterns.react import react
    from executionkit.patterns.refine import Evaluation, Evaluator, refine
    from executionkit.patterns.step import step
    from executionkit.provider import (
        LLMProvider,
        LLMResponse,
        Message,
        ToolCall,
        ToolCallingProvider,
        ToolSpec,
    )
    from executionkit.providers.local import LocalProvider
    from executionkit.providers.openai import Provider
    from executionkit.providers.scripted import ScriptedProvider
    from executionkit.retry import DEFAULT_RETRY, RetryConfig
    from executionkit.stage import Stage, identity
    from executionkit.tool import Tool, ToolError

__all__ = [
    "DEFAULT_RETRY",
    "BudgetExhaustedError",
    "ConsensusFailedError",
    "Context",
    "CostTracker",
    "DeadlineExceededError",
    "Evaluation",
    "EvaluationError",
    "Evaluator",
    "Event",
    "ExecutionKitError",
    "InvalidOutputError",
    "InvalidPromptError",
    "LLMError",
    "LLMProvider",
    "LLMResponse",
    "LocalProvider",
    "MaxIterationsError",
    "Message",
    "MeteredProvider",
    "Outcome",
    "PatternError",
    "PatternResult",
    "PermanentError",
    "Provider",
    "ProviderClosedError",
    "ProviderError",
    "RateLimitError",
    "RetryConfig",
    "ScriptedProvider",
    "Stage",
    "StageError",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "ToolCallingProvider",
    "ToolError",
    "ToolSpec",
    "Trace",
    "VotingStrategy",
    "as_outcome",
    "complete",
    "consensus",
    "consensus_sync",
    "identity",
    "is_failure",
    "is_success",
    "pipe_sync",
    "react",
    "react_loop_sync",
    "refine",
    "refine_loop_sync",
    "step",
    "with_content",
]

_HOMES = {
    "compat": ("consensus_sync", "pipe_sync", "react_loop_sync", "refine_loop_sync"),
    "context": ("Context", "MeteredProvider"),
    "core.usage": ("TokenUsage",),
    "core.voting": ("VotingStrategy",),
    "errors": (
        "BudgetExhaustedError",
        "ConsensusFailedError",
        "DeadlineExceededError",
        "EvaluationError",
        "ExecutionKitError",
        "InvalidOutputError",
        "InvalidPromptError",
        "LLMError",
        "MaxIterationsError",
        "PatternError",
        "PermanentError",
        "ProviderClosedError",
        "ProviderError",
        "RateLimitError",
        "StageError",
    ),
    "events": ("Event", "Trace", "with_content"),
    "ledger": ("CostTracker",),
    "outcome": ("Outcome", "PatternResult", "as_outcome", "is_failure", "is_success"),
    "patterns.complete": ("complete",),
    "patterns.consensus": ("consensus",),
    "patterns.react": ("react",),
    "patterns.refine": ("Evaluation", "Evaluator", "refine"),
    "patterns.step": ("step",),
    "provider": ("LLMProvider", "LLMResponse", "Message", "ToolCall", "ToolCallingProvider", "ToolSpec"),
    "providers.local": ("LocalProvider",),
    "providers.openai": ("Provider",),
    "providers.scripted": ("ScriptedProvider",),
    "retry": ("DEFAULT_RETRY", "RetryConfig"),
    "stage": ("Stage", "identity"),
    "tool": ("Tool", "ToolError"),
}
"""Which module each public name comes from."""

if not TYPE_CHECKING:  # the checkers see the imports above, and refuse names that are not there

    def __getattr__(name: str) -> object:
        """Load a public name when it is asked for: the import stays light whatever the library grows by."""
        for home, names in _HOMES.items():
            if name in names:
                from importlib import import_module

                value = getattr(import_module(f"executionkit.{home}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """List the public names, loaded or not."""
        return sorted({*globals(), *__all__})
