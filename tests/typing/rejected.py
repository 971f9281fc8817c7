"""Wrong programs, each of which both checkers must refuse.

A line that stops failing is an error: its ignores are no longer needed, and both checkers complain of that.
"""
# What pyright would say of these lines even if they were right is off, so that each fails for its own reason.
# pyright: reportUnusedExpression=false, reportUnusedVariable=false, reportUnknownMemberType=false
# ruff: noqa: B018, F841

from collections.abc import Sequence
from typing import Any

from returns.result import Failure, Success

import executionkit
from executionkit import (
    Context,
    Evaluation,
    LLMProvider,
    LLMResponse,
    Outcome,
    PatternResult,
    Provider,
    RetryConfig,
    Stage,
    TokenUsage,
    Tool,
    ToolCallingProvider,
    compat,
    complete,
    consensus,
    consensus_sync,
    is_success,
    pipe_sync,
    react,
    react_loop_sync,
    refine,
    refine_loop_sync,
    step,
    structured_sync,
)
from executionkit.core.voting.stopping import certain
from executionkit.datasets import Local, Ray, map_dataset
from executionkit.journal import Cached, Journal, Store
from executionkit.otel import Otel, install
from executionkit.patterns.refine import Draft
from executionkit.patterns.structured import Structured, structured
from executionkit.plan import bounds_by_part, dumps, fingerprint, loads, mermaid
from executionkit.streaming import Streaming
from executionkit.tools import tool
from tests.typing.stages import City, Count, Spell


class NoProvider:
    """Completes nothing."""

    def finish(self, text: str) -> str:
        """Do something else."""
        return text


class NotAsync:
    """Has the name of the method, and not its shape."""

    def complete(self, messages: list[dict[str, Any]], **kwargs: Any) -> LLMResponse:
        return LLMResponse("too early")


class Positional:
    """Takes a text where messages are sent."""

    async def complete(self, prompt: str) -> LLMResponse:
        return LLMResponse(prompt)


def names() -> None:
    """What the package does not hold."""
    executionkit.consensuss()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    executionkit.PatternResult.text  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    compat.refine_loops()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def joins(budget: TokenUsage) -> None:
    """What does not fit together."""
    complete().with_input() >> complete()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    Count() >> complete()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    Count() >> refine() >> Spell()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    complete() >> Spell()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    (complete() & Count()) >> complete()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    (complete() | Count()) >> consensus()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    complete().map(len) >> consensus()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    complete() | Spell()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    complete() & Spell()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    complete() >> len  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    complete() >> "a text"  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    Count().map(str.upper)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().map(lambda: "no argument")  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    wrong: Stage[str, int] = complete() >> Count() >> Spell()  # type: ignore[operator]  # pyright: ignore[reportAssignmentType]
    consensus(output_type=City) >> refine()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    structured(City) >> complete()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    react([], output_type=City).map(str.upper)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    narrower: Stage[object, str] = complete()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def limits(provider: LLMProvider) -> None:
    """What bounds a stage is a `TokenUsage`, and what it asks a provider."""
    complete().within(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().within(max_cost=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().using("https://example.com/v1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().using(NoProvider())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def runs(provider: LLMProvider) -> None:
    """What a run takes and returns."""
    await complete().run(provider, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Spell().run(provider, "three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run("a prompt", provider)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(NoProvider(), "?")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(NotAsync(), "?")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(Positional(), "?")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(provider, "?", max_cost=100)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(provider, "?", max_costs=TokenUsage())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await complete().run(provider, "?", retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(provider, "?", deadline="1 s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().run_sync(provider)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    complete().run(provider, "?").value  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    (await complete().run(provider, "?")).value  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]


def settings() -> None:
    """Settings of the patterns."""
    consensus("5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    consensus(num_samples=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    consensus(strategy="plurality")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    consensus(temperature="hot")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    refine(target_score="high")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    refine(max_iterations=2.5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    react()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    react([], max_rounds="many")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    complete(max_tokens=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryConfig(max_retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    TokenUsage(calls=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    complete().temperature = 0.5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    step(None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def no_score(text: str, provider: LLMProvider) -> str:
    """Return words where a number is wanted."""
    return text


async def three(text: str, provider: LLMProvider, task: str) -> float:
    """Ask for more than an evaluator gets."""
    return 1.0


def of_bytes(text: bytes) -> float:
    """Read something else than text."""
    return 1.0


def of_nothing() -> float:
    """Read nothing at all."""
    return 1.0


def evaluators() -> None:
    """An evaluator takes a text, or a text and a provider, and gives a score."""
    consensus(key=of_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consensus(weigh=of_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    refine(no_score)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    refine(three)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    refine(of_bytes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    refine(0.9)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    refine(lambda text: "good")  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportCallIssue]
    refine(lambda: 1.0)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Evaluation("good")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def synchronous(city: str) -> str:
    """Return at once, where a tool is awaited."""
    return city


async def weather(city: str) -> str:
    """Tell the weather."""
    return city


def tools(tool: Tool) -> None:
    """A tool is a `Tool` with an async function."""
    react([weather])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    react(tool)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    Tool("weather", "Tells it.", {}, synchronous)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Tool("weather", "Tells it.", {}, weather, timeout="5 s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Tool("weather", "Tells it.", "no schema", weather)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tool.name = "another"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def results(outcome: Outcome[str], result: PatternResult[str]) -> int:
    """A result is read after it is known to be one, and never written."""
    outcome.value  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
    result.value = "another"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    result.metadata["mine"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    result.score + 1  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand]
    wrong: PatternResult[int] = result  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    wide: Outcome[int] = outcome  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    if is_success(outcome):
        return outcome.unwrap().value  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
    return outcome.failure().message  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def matches(outcome: Outcome[str]) -> int:  # type: ignore[return]  # pyright: ignore[reportReturnType]
    """A `match` with a case left out does not return on every way."""
    match outcome:  # pyright: ignore[reportMatchNotExhaustive]
        case Success(result):
            return len(result.value)


def texts(outcome: Outcome[str]) -> str:
    """What is matched is a result, not its value."""
    match outcome:
        case Success(result):
            return result  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
        case Failure(error):
            return error  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


async def plain_step(provider: LLMProvider, prompt: str) -> str:
    """Return no `PatternResult`."""
    return prompt


async def swapped(prompt: str, provider: LLMProvider) -> PatternResult[str]:
    """Take the two the wrong way round."""
    return PatternResult(prompt)


async def of_one(prompt: str) -> PatternResult[str]:
    """Take no provider."""
    return PatternResult(prompt)


async def demanding(provider: LLMProvider, prompt: str, *, times: int) -> PatternResult[str]:
    """Need a setting."""
    return PatternResult(prompt)


def at_once(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    """Return at once, where a step is awaited."""
    return PatternResult(prompt)


def steps(provider: LLMProvider) -> None:
    """A step is an async function of a provider and a prompt; what is passed on, it takes."""
    step(swapped)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(of_one)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(at_once)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(demanding)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue]
    step(demanding, times="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(demanding, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    step(demanding, times=3, loud=True)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue]
    step(compat.consensus, n=3)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue]
    step(compat.consensus, num_samples="three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(lambda provider: compat.consensus(provider, "?"))  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(lambda provider, prompt: prompt)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(lambda provider, prompt: compat.consensus(prompt, provider))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def more_steps(provider: LLMProvider) -> None:
    """The steps of a pipe are held to the same."""
    await compat.pipe(provider, "?", swapped)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await compat.pipe(provider, "?", of_one)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await compat.pipe(provider, "?", at_once)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def names_that_moved() -> None:
    """What another module has."""
    executionkit.pipe(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    executionkit.beta()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    executionkit.Approve()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def stages_in_the_shape_of_the_facade(provider: LLMProvider) -> None:
    """A stage's function takes no provider."""
    consensus(provider, "?", num_samples=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    refine(provider, "?")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    react(provider, "?", [])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    structured(provider, "?", int)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    complete(provider, "?")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]


async def facade(provider: LLMProvider, tools: Sequence[Tool]) -> None:
    """The functions of the specification and their twins."""
    await compat.consensus(provider, "?", n=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await compat.consensus("?", provider)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await compat.react_loop(provider, "?")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await compat.pipe(provider, "?", plain_step)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await compat.refine_loop(provider, "?", evaluator=of_bytes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    compat.consensus(provider, "?").value  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    consensus_sync(provider, "?", n=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    consensus_sync(provider)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    refine_loop_sync(provider, "?", evaluator=no_score)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    react_loop_sync(provider, "?", [weather])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    pipe_sync(provider, "?", consensus())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    structured_sync(provider, "?")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    structured_sync(provider, "?", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pipe_sync(provider, "?", max_budget=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step(plain_step)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(consensus())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def providers(provider: Provider) -> None:
    """What is not a provider, and what one does not tell."""
    one: LLMProvider = NoProvider()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    two: LLMProvider = NotAsync()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    three: ToolCallingProvider = Positional()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    Provider("https://example.com/v1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Provider("https://example.com/v1", "a-model", key="k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class WrongOutput(Stage[str, int], frozen=True):
    """A pattern whose work does not give what it says."""

    async def perform(self, value: str, context: Context) -> PatternResult[str]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return PatternResult(value)


class NoWork(Stage[str, str], frozen=True):
    """A pattern that does nothing."""


def patterns() -> None:
    """What is left abstract can not be built."""
    NoWork()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


def wrong_votes(provider: LLMProvider) -> None:
    """Votes that make no sense."""
    consensus(stop="beta")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    consensus(stop=certain)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    consensus(output_type="Invoice")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    consensus(output_type=int, key=str.casefold)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    consensus(by_field=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    consensus(weigh=len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consensus(providers=provider)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    consensus(providers=("a", "b"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consensus(key=lambda text: [text])  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    joined: Stage[str, int] = consensus(output_type=float)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    consensus(output_type=int) >> complete()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]


def plain(city: str) -> str:
    """No coroutine function, so no `execute`; `tool` takes it."""
    return city


async def count(city: str) -> int:
    """No approval hook."""
    return len(city)


def tools_and_typed_answers(add: Tool, first: Structured[bytes], second: Structured[int]) -> None:
    """Wrong tools, hooks and answers."""
    tool(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    tool(plain, timeout="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    tool(plain, unknown=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    Tool("plain", "", {}, plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    react([plain])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    react([add], approve=count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    react([add], on_limit="stop")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    structured(int, output_retries="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    structured(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    react([], output_type=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    first >> second  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    add(1, 2)  # type: ignore[operator]  # pyright: ignore[reportCallIssue]


def of_numbers(number: int) -> str | None:
    """Look at numbers."""
    return None


def answers_no(text: str) -> bool:
    """Give no reason."""
    return False


def combinators(improving: Stage[Draft[int, str], str]) -> None:
    """Many inputs, fallbacks, rules, names, templates."""
    complete().each(on_error="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    complete().each(name=of_numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().each() >> complete()  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    complete().each().run_sync(compat, ["a"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().over([1], compat, key=str)  # type: ignore[arg-type, list-item]  # pyright: ignore[reportArgumentType]
    complete().over(["a"], Provider("", ""), key=of_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().over(["a"], Provider("", ""), key=str, ahed=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Spell().over(["a"], Provider("", ""), key=str)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    map_dataset([1], "out.csv", complete(), lambda: Provider("", ""), key=str)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    map_dataset(["a"], "out.csv", complete(), lambda: 1, key=str)  # type: ignore[return-value, arg-type]  # pyright: ignore[reportArgumentType]
    map_dataset(["a"], "out.csv", complete(), lambda: Provider("", ""), key=str, engine=Local)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Ray(100)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    complete().over_sync(["a"], Provider("", ""))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    complete().or_else(Spell())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().or_else(complete(), on=(ValueError,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Spell().checked(of_numbers)  # type: ignore[misc, arg-type]  # pyright: ignore[reportAttributeAccessIssue]
    complete().checked(of_numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().checked(answers_no)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    structured(City, check=of_numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    consensus(check=answers_no)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().named(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete(system=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consensus(system=of_numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executionkit.prompt(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    refine(output_type=City)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    refine(len, draft=Count(), improve=improving)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    refine(of_nothing, output_type=City)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def streams(provider: LLMProvider) -> None:
    """What a stream is not."""
    complete().stream(provider, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().stream(provider, "a", ahead="b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().stream(NotAsync(), "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    list(complete().stream(provider, "a"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    async with complete().stream(provider, "a") as run:
        run.elements().anext()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    async with Count().stream(provider, "a") as numbers:
        numbers.elements()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    wanted: Streaming[str] = Count().stream(provider, "a")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    with complete().stream(provider, "a"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def journals(provider: LLMProvider, journal: Journal) -> None:
    """A run takes the journal of one run; what a journal takes, and what it gives."""
    await complete().run(provider, "a", journal=journal)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(provider, "a", journal="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    complete().stream(provider, "a", journal=journal)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Count().over(["a"], provider, key=str, journal=journal)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    journal.run(4711)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    journal.run("a", on_change="retry")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    journal.resolve("a", "key", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    journal.past_runs(journal.run("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    journal.past_runs(complete()).answered = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    journal.runs()[0].name = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Journal(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Journal("a", most_bytes="1 MB")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Cached(NoProvider(), journal)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Cached(provider, "answers.db")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    store: Store = provider  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    tool(effects="twice")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def plans() -> None:
    """What is no stage is neither written nor drawn; bounds come by part; a provider has a name and a shape."""
    dumps("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    loads(b"{}", providers={"a": NoProvider()})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    fingerprint(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mermaid(complete(), bounds=complete().bounds())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bounds_by_part(complete(), 3)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


async def traces(provider: LLMProvider) -> None:
    """What no trace is, and what OpenTelemetry's does not take."""
    await complete().run(provider, "a", trace=[print])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(provider, "a", trace=(print, 3))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await complete().run(provider, "a", trace=Otel)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Otel(names="1.42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Otel(content="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    install(provider)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
