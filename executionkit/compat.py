"""The specification as written: async functions that return a `PatternResult` and raise what goes wrong.

Each function builds the native stage, runs it and raises what it returns; each `_sync` twin does so on an event
loop of its own. Errors raised are fresh copies, so that no traceback grows on a stored one.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

from returns.result import Failure, Success

from executionkit.core.checks import check_prompt
from executionkit.core.keywords import bound_keywords, takes
from executionkit.core.usage import TokenUsage
from executionkit.core.voting import VotingStrategy
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
from executionkit.ledger import CostTracker
from executionkit.outcome import Outcome, PatternResult
from executionkit.patterns.consensus import consensus as consensus_stage
from executionkit.patterns.react import react as react_stage
from executionkit.patterns.refine import Evaluator, refine
from executionkit.patterns.step import Step, StepFunction
from executionkit.provider import (
    DEFAULT_MAX_TOKENS,
    LLMProvider,
    LLMResponse,
    ToolCall,
    ToolCallingProvider,
    supports_tools,
)
from executionkit.retry import DEFAULT_RETRY, RetryConfig
from executionkit.running import in_new_loop
from executionkit.stage import Pipeline, Stage
from executionkit.tool import Tool
