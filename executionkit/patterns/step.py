"""An async function with a pattern's signature, as a stage."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from typing_extensions import override

from executionkit.core.bounds import Given, Reach, unbounded
from executionkit.core.budget import tighter
from executionkit.core.checks import check_completion
from executionkit.core.foreign import function_name
from executionkit.core.keywords import bound_keywords, by_name, names, takes
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.errors import StageError
from executionkit.outcome import PatternResult
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMProvider
from executionkit.retry import checked_retry
from executionkit.runtime.context import Context, charged, nothing_left, tighten
from executionkit.runtime.tasks.timeouts import finish_within
from executionkit.stage import Stage

__all__ = ["Step", "StepFunction", "TakesOptions", "step", "steps_of"]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

StepFunction: TypeAlias = Callable[Concatenate[LLMProvider, str, ...], Awaitable[PatternResult[T]]]
"""`async (provider, prompt, **keywords) -> PatternResult[T]`."""


class TakesOptions(Protocol[T_co]):
    """A step's function that takes any keyword."""

    def __call__(self, provider: LLMProvider, prompt: str, **options: Any) -> Awaitable[PatternResult[T_co]]:
        """Do the work."""
        ...


class Step(Stage[object, T], frozen=True):
    """A function as a stage; see `step`."""

    function: StepFunction[T]
    keywords: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a step must be an async function, not {type(self.function).__name__}")
        self._budget()

    @property
    @override
    def name(self) -> str:
        return function_name(self.function)

    @override
    async def perform(self, value: object, context: Context) -> PatternResult[T]:
        budget = self._budget()
        if budget != NO_USAGE:
            tighten(context, budget, self.name)
        keywords = {**dict(self.keywords), **self._told(budget, context)}

        def work() -> Awaitable[PatternResult[T]]:
            pending = self.function(context.provider, str(value), **keywords)
            if not isawaitable(pending):
                raise StageError(
                    f"step {self.name} is not async; a step is an async function that returns a PatternResult"
                )
            return pending

        async def call() -> PatternResult[T]:
            result = await finish_within(work, name=f"the step {self.name}")
            return _checked(result, self.name)

        return await charged(context, call)

    @override
    def reach(self, given: Given) -> Reach:
        reach = unbounded(f"what {self.name} asks the model")
        budget = self._budget()
        return reach if budget == NO_USAGE else reach.within(budget, given)

    def _budget(self) -> TokenUsage:
        """Return the tightest budget that was given to the function, by keyword or by `partial`."""
        given = (dict(self.keywords), bound_keywords(self.function))
        budgets = [checked_budget(keywords.get("max_cost")) or NO_USAGE for keywords in given]
        return tighter(*budgets)

    def _told(self, budget: TokenUsage, context: Context) -> dict[str, TokenUsage]:
        """Tell a function that knows of `max_cost` what is left; the ledger holds every one to it unasked."""
        if budget == NO_USAGE and not names(self.function, "max_cost"):
            return {}
        left = context.left
        if left is None:
            raise nothing_left(context, f"step {self.name}")
        return {} if left == NO_USAGE else {"max_cost": left}


# Three ways to see one function, since no checker takes them all in one: the first lets the parameters of a
# lambda be inferred, the second checks what is passed on, the third is for `**options`.
@overload
def step(function: Callable[[LLMProvider, str], Awaitable[PatternResult[T]]], /) -> Step[T]: ...
@overload
def step(
    function: Callable[Concatenate[LLMProvider, str, P], Awaitable[PatternResult[T]]],
    /,
    *arguments: P.args,
    **keywords: P.kwargs,
) -> Step[T]: ...
@overload
def step(function: TakesOptions[T], /, **options: Any) -> Step[T]: ...
def step(function: StepFunction[T], /, *arguments: Any, **keywords: Any) -> Step[T]:
    """Make a stage of an async function that takes `(provider, prompt, **keywords)` and returns a result.

    The function is handed a provider on the run's ledger, and `str` of the value before it as the prompt.
    Cost that it reports beyond what went through that provider is charged as well. Where it names a
    `max_cost`, it is told what is left.

    Args:
        function: The function; `functools.partial` binds keywords as well.
        *arguments: What it takes behind the prompt; passed on by name with each call.
        **keywords: Passed on with each call.

    Metadata:
        Whatever the function's result holds.

    Returns (on `run`):
        StageError: The function raised, or returned something that is not a `PatternResult`.

    Raises:
        TypeError: It is not callable, takes no such arguments by name, or a `max_cost` is not a `TokenUsage`.
        ValueError: A `max_cost` is negative.
    """
    named = by_name(function, arguments, after=2) if arguments else {}
    if twice := named.keys() & keywords.keys():
        raise TypeError(f"{function_name(function)} is given {', '.join(sorted(twice))} twice")
    return Step(function, tuple({**named, **keywords}.items()))


def steps_of(functions: Sequence[StepFunction[T]], shared: Mapping[str, Any]) -> tuple[Step[T], ...]:
    """Make a step of each function, with those of the shared keywords that it takes.

    Those that every pattern takes (`temperature`, `max_tokens`, `max_cost`, `retry`) are checked. A keyword
    that a `functools.partial` binds beats a shared one; of two budgets the step is given both, and holds the
    tighter.

    Raises:
        TypeError: A keyword that no function takes; one that every pattern takes, of the wrong type.
        ValueError: One of those is out of range.
    """
    checked_retry(shared.get("retry"))
    check_completion(shared.get("temperature"), shared.get("max_tokens", DEFAULT_MAX_TOKENS))
    for keyword in shared:
        if not any(takes(function, keyword) for function in functions):
            known = ", ".join(map(function_name, functions)) or "none"
            raise TypeError(f"no step takes the shared keyword {keyword!r}; the steps are {known}")
    return tuple([step(function, **_share(function, shared)) for function in functions])


def _share(function: StepFunction[T], shared: Mapping[str, Any]) -> dict[str, Any]:
    bound = bound_keywords(function)
    return {
        keyword: value
        for keyword, value in shared.items()
        if takes(function, keyword) and (keyword == "max_cost" or keyword not in bound)
    }


def _checked(result: PatternResult[T], name: str) -> PatternResult[T]:
    if _is_result(result):
        return result
    raise StageError(f"step {name} returned {type(result).__name__} instead of a PatternResult")


def _is_result(result: object) -> bool:
    return isinstance(result, PatternResult)
