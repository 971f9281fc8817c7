"""ExecutionKit: typed, functional LLM reasoning patterns that say what they cost.

`(consensus(n=5) >> refine(evaluator)).run(provider, prompt)` returns a `Result` that holds the answer and its
cost, or the error and its cost. The specification's own functions, which raise, are in `executionkit.compat`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from executionkit.approval import Approve, Deny, Edit, Proposal, Stop
    from executionkit.compat import (
        consensus_sync,
        pipe_sync,
        react_loop_sync,
        refine_loop_sync,
        structured_sync,
    )
    from executionkit.core.rate_limit import RateLimit
    from executionkit.core.transcript import Transcript
    from executionkit.core.usage import TokenUsage
    from executionkit.core.voting.stopping import StoppingRule, beta, certain, forecast, unanimous_window
    from executionkit.core.voting.tally import VotingStrategy
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
        StoppedError,
    )
    from executionkit.events import Event, Trace, with_content
    from executionkit.outcome import Outcome, PatternResult, as_outcome, is_failure, is_success
    from executionkit.patterns.complete import complete
    from executionkit.patterns.consensus import consensus, select
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
    from executionkit.providers.local import LocalProvider
    from executionkit.providers.openai import Provider
    from executionkit.providers.scripted import ScriptedProvider
    from executionkit.providers.secret import Secret
    from executionkit.retry import DEFAULT_RETRY, RetryConfig
    from executionkit.runtime.context import Context, MeteredProvider
    from executionkit.runtime.ledger import CostTracker
    from executionkit.stage import Stage, identity
    from executionkit.tools import Tool, ToolError, tool

__all__ = [
    "DEFAULT_RETRY",
    "Approve",
    "BudgetExhaustedError",
    "ConsensusFailedError",
    "Context",
    "CostTracker",
    "DeadlineExceededError",
    "Deny",
    "Edit",
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
    "Proposal",
    "Provider",
    "ProviderClosedError",
    "ProviderError",
    "RateLimit",
    "RateLimitError",
    "RetryConfig",
    "ScriptedProvider",
    "Secret",
    "Stage",
    "StageError",
    "Stop",
    "StoppedError",
    "StoppingRule",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "ToolCallingProvider",
    "ToolError",
    "ToolSpec",
    "Trace",
    "Transcript",
    "VotingStrategy",
    "as_outcome",
    "beta",
    "certain",
    "complete",
    "consensus",
    "consensus_sync",
    "forecast",
    "identity",
    "is_failure",
    "is_success",
    "pipe_sync",
    "react",
    "react_loop_sync",
    "refine",
    "refine_loop_sync",
    "select",
    "step",
    "structured",
    "structured_sync",
    "tool",
    "unanimous_window",
    "with_content",
]

_HOMES = {
    "approval": ("Approve", "Deny", "Edit", "Proposal", "Stop"),
    "compat": ("consensus_sync", "pipe_sync", "react_loop_sync", "refine_loop_sync", "structured_sync"),
    "runtime.context": ("Context", "MeteredProvider"),
    "core.rate_limit": ("RateLimit",),
    "core.voting.stopping": ("StoppingRule", "beta", "certain", "forecast", "unanimous_window"),
    "core.transcript": ("Transcript",),
    "core.usage": ("TokenUsage",),
    "core.voting.tally": ("VotingStrategy",),
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
        "StoppedError",
    ),
    "events": ("Event", "Trace", "with_content"),
    "runtime.ledger": ("CostTracker",),
    "outcome": ("Outcome", "PatternResult", "as_outcome", "is_failure", "is_success"),
    "patterns.complete": ("complete",),
    "patterns.consensus": ("consensus", "select"),
    "patterns.react": ("react",),
    "patterns.refine": ("Evaluation", "Evaluator", "refine"),
    "patterns.step": ("step",),
    "patterns.structured": ("structured",),
    "provider": ("LLMProvider", "LLMResponse", "Message", "ToolCall", "ToolCallingProvider", "ToolSpec"),
    "providers.local": ("LocalProvider",),
    "providers.openai": ("Provider",),
    "providers.scripted": ("ScriptedProvider",),
    "providers.secret": ("Secret",),
    "retry": ("DEFAULT_RETRY", "RetryConfig"),
    "stage": ("Stage", "identity"),
    "tools": ("Tool", "ToolError", "tool"),
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
