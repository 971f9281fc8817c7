"""The errors of a call: what a provider raised, what a server refused, what a budget did not allow."""

from collections.abc import Mapping
from typing import Final

from executionkit.core.budget import Refused
from executionkit.core.foreign import attribute, described
from executionkit.core.groups import is_a, leaves
from executionkit.core.learning import Refusal
from executionkit.core.usage import NO_USAGE, TokenUsage, sane_usage
from executionkit.errors import (
    BudgetExhaustedError,
    ExecutionKitError,
    LLMError,
    PermanentError,
    ProviderError,
)
from executionkit.errors.handling import unwrapped
from executionkit.retry import RetryConfig
from executionkit.runtime.calls.endpoints import Endpoint

__all__ = ["as_failure", "billed_in", "out_of_budget", "placed", "refusal_in"]

_REFUSALS: Final = frozenset({400, 422, None})
"""The statuses with which a server says that it does not take a request as it is; None for no status."""


def as_failure(raised: Exception, retry: RetryConfig, *, has_delivered: bool) -> ExecutionKitError:
    """Return what a provider raised as an error of ours, which says whether it is worth a retry.

    Args:
        raised: What it raised.
        retry: Names the foreign exceptions that are.
        has_delivered: Whether text of the answer was handed out: nobody can take that back.
    """
    error = unwrapped(raised)
    if not isinstance(error, ExecutionKitError):
        failure = ProviderError(f"the provider raised {described(error)}", retryable=_may_pass(error, retry))
        failure.__cause__ = error
        error = failure
    if not isinstance(attribute(error, "metadata"), Mapping):
        error = error.stamped(error.cost)  # a copy that can be read
    if has_delivered and isinstance(error, LLMError) and error.retry_hint is not False:
        error = error.stamped(error.cost)  # a copy, for the original is the provider's
        error.retry_hint = False
    return error


def billed_in(raised: Exception, failure: ExecutionKitError) -> object:
    """Return what a provider says that a failure cost: of several in a group, what they come to together.

    Args:
        raised: What it raised.
        failure: The failure that this is taken for.
    """
    if not is_a(raised, ExceptionGroup):
        return attribute(failure, "cost")
    total = NO_USAGE
    for cost in {id(leaf): attribute(unwrapped(leaf), "cost") for leaf in leaves(raised)}.values():
        if isinstance(cost, TokenUsage):
            sane = sane_usage(cost)
            if sane is None:
                return cost  # it is charged as reserved
            total += sane
    return total


def _may_pass(error: Exception, retry: RetryConfig) -> bool:
    """Tell whether a foreign exception is what the system reports, TLS aside, or what the caller named."""
    from ssl import SSLEOFError, SSLError  # takes long to import, and most runs do without

    is_tls = isinstance(error, SSLError) and not isinstance(error, SSLEOFError)
    return not is_tls and isinstance(error, (OSError, *retry.retryable))


def placed(failure: ExecutionKitError, member: Endpoint) -> ExecutionKitError:
    """Say who was asked, in the message and as `model` and `server`, once and where the provider tells."""
    who = {"model": member.model, "server": member.server}
    told = {key: name for key, name in who.items() if name}
    if not told or not isinstance(failure, LLMError) or told.keys() & failure.metadata.keys():
        return failure
    error = failure.stamped(failure.cost, told)
    if error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} ({' at '.join(told.values())})", *error.args[1:])
    return error


def refusal_in(failure: ExecutionKitError) -> Refusal | None:
    """Return what a server said when it did not take a request as it is; None where it is another failure."""
    said = failure.metadata
    status = said.get("status")
    if not isinstance(failure, PermanentError) or not isinstance(status, int | None):
        return None
    if status not in _REFUSALS:
        return None
    field, code = said.get("param"), said.get("code")
    return Refusal(
        str(failure), field if isinstance(field, str) else "", code if isinstance(code, str) else ""
    )


def out_of_budget(refused: Refused) -> BudgetExhaustedError:
    """Return the error for a call that a budget has no room for."""
    owner = refused.owner
    if owner is None:
        return BudgetExhaustedError(
            f"the budget does not allow another call: {refused.reason}; {refused.remedy}",
            metadata={"is_unpriced": True} if refused.is_unpriced else None,
        )
    noted = {
        "budget": "run" if owner.is_run else "stage",
        "budget_path": owner.path,
        "budget_limit": refused.limit,
        "budget_spent": refused.spent,
        "budget_needed": refused.needed,
    }
    needed, call = refused.needed, ""
    if needed.llm_calls:
        tokens = f"{needed.input_tokens:,} input tokens and up to {needed.output_tokens:,} output tokens"
        call = f"the call needs about {tokens}; "
    return BudgetExhaustedError(
        f"{owner.described} does not allow another call: {refused.reason}; {call}{refused.remedy}",
        metadata=noted,
    )
