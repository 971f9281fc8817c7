"""ExecutionKit: typed, functional LLM reasoning patterns that say what they cost.

`(consensus(n=5) >> refine(evaluator)).run(provider, prompt)` returns a `Result` that holds the answer and its
cost, or the error and its cost. The specification's own functions, which raise, are in `executionkit.compat`.
"""

from typing import TYPE_CHECKING

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
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolCall, ToolCallingProvider, ToolSpec
from executionkit.retry import DEFAULT_RETRY, RetryConfig
from executionkit.stage import Stage, identity
from executionkit.tool import Tool, ToolError

if TYPE_CHECKING:
    from executionkit.providers.local import LocalProvider
    from executionkit.providers.openai import Provider
    from executionkit.providers.scripted import ScriptedProvider

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


_LAZY = {
    "LocalProvider": "executionkit.providers.local",
    "Provider": "executionkit.providers.openai",
    "ScriptedProvider": "executionkit.providers.scripted",
}


def __getattr__(name: str) -> object:
    """Load a provider when it is asked for: `Provider` costs as much to import as all the rest."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
