"""Bounds: no run is outside of them, and both ends are met."""

import math
import os
from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from random import Random
from statistics import median
from typing import Any, Final

import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from returns.result import Success
from typing_extensions import override

from executionkit import Pool
from executionkit.core.bounds import Amount, Bounds, Given, Reach
from executionkit.core.budget import bound_input
from executionkit.core.usage import TokenUsage
from executionkit.errors import PermanentError, ProviderError, RateLimitError
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus, select
from executionkit.patterns.prompt import prompt
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.patterns.structured import structured
from executionkit.prices import Price
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolCall
from executionkit.retry import RetryConfig
from executionkit.runtime.context import Context
from executionkit.stage import Stage, identity
from executionkit.tools import tool
from executionkit.voting import beta, certain, unanimous_window
from tests.doubles import AT_ONCE, NEVER, Asked, Buy, Model, reply

pytestmark = pytest.mark.anyio

PIPELINES: Final = int(os.environ.get("EXECUTIONKIT_PIPELINES", "250"))
"""20,000 in the long form, `just long bounds`, which prints how far the most is from what was taken."""

REFUSALS = (
    "Unsupported parameter: 'temperature'",
    "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
    "Unsupported parameter: 'max_completion_tokens'",
    "response_format is not supported",
    "n must be 1",
    "stream_options is not supported",
    "Bad Request",
)
FATES = ("answer",) * 9 + ("again", "down", "permanent", "refused", "billed", "silent")
Text = Stage[str, str]


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"{what} is there"


class Server:
    """A server that honours the output limit, and whose texts are no longer than their tokens."""

    supports_tools = True
    count_tokens = "bytes"

    def __init__(self, random: Random, fates: tuple[str, ...] = FATES) -> None:
        self.random = random
        self.fates = fates
        self.price = Price(random.randrange(9), random.randrange(30), per_call=random.choice((0, "0.001")))
        self.calls = 0

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        random = self.random
        self.calls += 1
        if random.random() < 0.4:
            await checkpoint()
        limit = kwargs.get("max_tokens") or kwargs["max_completion_tokens"]
        answers = kwargs.get("n", 1)
        given = random.randint(1, bound_input(messages))  # no more tokens than bytes
        cost = TokenUsage(given, random.randint(1, limit), 1)
        match random.choice(self.fates):
            case "again":
                raise RateLimitError("busy")
            case "down":
                raise ProviderError("down")
            case "billed":
                raise ProviderError("cut off", cost=cost)
            case "permanent":
                raise PermanentError("no", metadata={"status": 401})
            case "refused":
                raise PermanentError(random.choice(REFUSALS), metadata={"status": 400})
            case "silent":
                return LLMResponse("yes")
            case _:
                pass
        if kwargs.get("tools") and random.random() < 0.5:
            call = ToolCall("a", "look", {"what": "x"})
            return LLMResponse("", (call,), "tool_calls", {"prompt_tokens": 9, "completion_tokens": limit})
        text = random.choice(("yes", "no", "[1, 2]", "Score: 7", "Response 1", "1"))
        taken = random.randint(len(text), limit) + limit * (answers - 1)
        usage = {"prompt_tokens": given, "completion_tokens": taken}
        choices = [{"message": {"content": text}, "finish_reason": "stop"}] * random.randint(1, answers)
        return LLMResponse(text, usage=usage, raw={"choices": choices} if answers > 1 else None)


class Twice(Stage[str, list[str]], frozen=True):
    """Makes two inputs of one, at no cost."""

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[list[str]]:
        return PatternResult([value, value])

    @override
    def reach(self, given: Given) -> Reach:
        return Reach(value=2 * given.value + 9)


def leaf(random: Random, servers: list[Server]) -> Text:
    size = random.randint(20, 60)
    some = tuple(random.sample(servers, random.randint(0, len(servers))))
    together, stop = random.random() < 0.4, random.choice((None, certain(), beta(), unanimous_window(2)))
    makers: tuple[Callable[[], Text], ...] = (
        lambda: complete(max_tokens=size),
        lambda: consensus(
            random.randint(1, 7), max_tokens=size, providers=some, one_request=together, stop=stop
        ),
        lambda: consensus(4, max_tokens=size, quorum=2, one_request=together),
        lambda: consensus(3, output_type=list[int], max_tokens=size).map(str),
        lambda: select(random.randint(1, 4), max_tokens=size),
        lambda: refine(len_score, max_iterations=2, max_tokens=size),
        lambda: refine(max_iterations=random.randint(0, 2), max_tokens=size),
        lambda: react([look], max_rounds=3, max_tokens=size, on_limit=random.choice(("fail", "answer"))),
        lambda: structured(list[int], max_tokens=size, output_retries=random.randint(0, 2)).map(str),
        lambda: refine(len_of, output_type=list[int], max_iterations=1, max_tokens=size).map(str),
        lambda: refine(draft=complete(max_tokens=size), improve=IMPROVE, max_iterations=2, max_tokens=size),
        lambda: complete(max_tokens=size, system="Be brief.").with_input().named("both").map(str),
        lambda: prompt("Say {} again: {}") >> complete(max_tokens=size),
        lambda: complete(max_tokens=size).checked(too_short, output_retries=random.randint(0, 2)),
    )
    return random.choice(makers)()


IMPROVE = prompt("Better than {value}") >> complete(max_tokens=30)


def len_of(values: list[int]) -> float:
    return 0.5 if values else 1.0


def too_short(text: str) -> str | None:
    return "longer" if len(text) < 4 else None


def len_score(text: str) -> float:
    return len(text) % 10 / 10


def tree(random: Random, servers: list[Server], depth: int = 2) -> Text:
    if not depth or random.random() < 0.3:
        return leaf(random, servers)
    one, other = tree(random, servers, depth - 1), tree(random, servers, depth - 1)
    match random.randrange(6):
        case 5:
            size = random.randint(1, 3)
            many = one.each(max_concurrency=size, on_error=random.choice(("collect", "fail")))
            return Twice() >> many.map(str)
        case 0:
            return one >> other
        case 1:
            return one | other
        case 2:
            return (one & other).map(str)
        case 3:
            return one.within(random_limit(random))
        case _:
            return one.using(random.choice(servers))


def random_limit(random: Random) -> TokenUsage:
    return TokenUsage(
        llm_calls=random.choice((0, random.randint(1, 9))),
        output_tokens=random.choice((0, random.randint(20, 300))),
        usd=random.choice((None, Decimal(random.randint(1, 900)).scaleb(-5))),
    )


def outside(cost: TokenUsage, bounds: Bounds, *, answered: bool) -> bool:
    most = bounds.most
    is_above = (
        cost.llm_calls > most.llm_calls
        or cost.output_tokens > most.output_tokens
        or (cost.usd or 0) > most.usd
    )
    return is_above or (answered and cost.llm_calls < bounds.least.llm_calls)


async def test_no_run_is_outside_of_its_bounds() -> None:
    wrong: list[int] = []
    ratios: list[float] = []
    for seed in range(PIPELINES):
        random = Random(seed)
        servers = [Server(random) for _ in range(random.randint(1, 3))]
        pipeline = tree(random, servers)
        provider: Any = Pool(servers) if random.random() < 0.2 else servers[0]
        limit = random_limit(random) if random.random() < 0.3 else None
        retry = random.choice((NEVER, AT_ONCE, RetryConfig(max_retries=1, base_delay=0)))
        bounds = pipeline.bounds("What is it?", provider=provider, retry=retry, max_cost=limit)
        outcome = await pipeline.run(provider, "What is it?", max_cost=limit, retry=retry)
        answered = isinstance(outcome, Success)
        cost = outcome.unwrap().cost if answered else outcome.failure().cost
        if outside(cost, bounds, answered=answered):
            wrong.append(seed)
        if cost.llm_calls:
            ratios.append(bounds.most.llm_calls / cost.llm_calls)
    print(
        f"{PIPELINES} pipelines, {len(wrong)} outside; most / actual calls: {median(ratios):.1f} in the median"
    )
    assert wrong == []


class Growing(RuleBasedStateMachine):
    """A pipeline that grows step by step, and is run on servers that break in between: smaller ones fail, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stage: Text = complete(max_tokens=20)
        self.steps = 0

    @precondition(lambda self: self.steps < 6)
    @rule(seed=st.integers(0, 10**6), how=st.sampled_from(["then", "or", "and", "within", "checked", "each"]))
    def grow(self, seed: int, how: str) -> None:
        self.steps += 1
        more = leaf(Random(seed), [])
        match how:
            case "then":
                self.stage = self.stage >> more
            case "or":
                self.stage = self.stage | more
            case "and":
                self.stage = (self.stage & more).map(str)
            case "within":
                self.stage = self.stage.within(random_limit(Random(seed)))
            case "checked":
                self.stage = self.stage.checked(too_short, output_retries=1)
            case _:
                self.stage = Twice() >> self.stage.each(max_concurrency=2).map(str)

    @rule(seed=st.integers(0, 10**6), retries=st.integers(0, 2))
    def run_it(self, seed: int, retries: int) -> None:
        server, retry = Server(Random(seed)), RetryConfig(max_retries=retries, base_delay=0)
        bounds = self.stage.bounds("What is it?", provider=server, retry=retry)
        outcome = self.stage.run_sync(server, "What is it?", retry=retry)
        answered = isinstance(outcome, Success)
        cost = outcome.unwrap().cost if answered else outcome.failure().cost
        assert not outside(cost, bounds, answered=answered)


TestGrowing = Growing.TestCase
TestGrowing.settings = settings(
    max_examples=20, stateful_step_count=10, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


RETRIES = RetryConfig(max_retries=2, base_delay=0)
STAGES: list[tuple[str, Callable[[], Text], int]] = [
    ("complete", lambda: complete(max_tokens=30), (3 + 1) + 2),
    ("consensus", lambda: consensus(3, max_tokens=30, quorum=1), 3 * 4 + 2 * 3),
    ("refine", lambda: refine(lambda text: 0.1, max_iterations=2, patience=9, max_tokens=30), 3 * 4 + 2),
    ("react", lambda: react([look], max_rounds=3, max_tokens=30), 3 * (4 + 1) + 5),
    ("last words", lambda: react([look], max_rounds=3, on_limit="answer"), (3 + 2) * (4 + 1) + 5),
    ("in one request", lambda: consensus(4, one_request=True), 4 * 4 + 2 * (4 + 1) + 3 * 4),
    ("typed", lambda: structured(str, output_retries=1).map(str), 2 * (4 + 1) + 2 + 2),
    ("select", lambda: select(2), 3 * 4 + 2 * 2),
    ("either", lambda: complete() | complete(), 2 * 4 + 2),
    ("both", lambda: (complete() & complete()).map(str), 2 * 4 + 2 * 2),
]
"""Stages, and three attempts of each call, one more for the name of the output limit, and what is learned once."""


@pytest.mark.parametrize(
    ("make", "most"), [(make, most) for _, make, most in STAGES], ids=[name for name, *_ in STAGES]
)
async def test_the_most_counts_every_attempt(make: Callable[[], Text], most: int) -> None:
    assert make().bounds("x", provider=Server(Random(1)), retry=RETRIES).most.llm_calls == most


def wanted(asked: Asked) -> LLMResponse:
    """Answer as well as one can."""
    return reply("1" if asked.options.get("response_format") or asked.tools else "Score: 10")


LEAST: list[tuple[str, Stage[Any, Any], object, int]] = [
    ("complete", complete(), "x", 1),
    ("consensus", consensus(5), "x", 5),
    ("certain", consensus(5, stop=certain()), "x", 3),
    ("beta", consensus(40, stop=beta(), max_concurrency=40), "x", 4),
    ("window", consensus(40, stop=unanimous_window(3), max_concurrency=40), "x", 3),
    ("quorum", consensus(9, quorum=2), "x", 2),
    ("typed vote", consensus(3, output_type=int), "x", 3),
    ("select", select(4), "x", 4),
    ("judged", refine(), "x", 2),
    ("refine", refine(lambda text: 1.0), "x", 1),
    ("typed refine", refine(lambda value: 1.0, output_type=int), "x", 1),
    ("own draft", refine(lambda text: 1.0, draft=consensus(2)), "x", 2),
    ("react", react([look]), "x", 1),
    ("typed react", react([look], output_type=int), "x", 1),
    ("structured", structured(int), "x", 1),
    ("prompt", prompt("Say {}"), "x", 0),
    ("identity", identity(str), "x", 0),
    ("chain", complete() >> consensus(2), "x", 3),
    ("both", complete() & consensus(2), "x", 3),
    ("either", complete() | consensus(2), "x", 1),
    ("map", complete().map(len), "x", 1),
    ("named", complete().named("one"), "x", 1),
    ("with input", complete().with_input(), "x", 1),
    ("checked", complete().checked(lambda text: None), "x", 1),
    ("within", consensus(5).within(TokenUsage(llm_calls=9)), "x", 5),
    ("using", consensus(2).using(Model(wanted)), "x", 2),
    ("each", complete().each(on_error="fail"), ["x", "y"], 2),
]


@pytest.mark.parametrize(
    ("stage", "value", "least"), [row[1:] for row in LEAST], ids=[name for name, *_ in LEAST]
)
async def test_the_least_is_met_by_every_stage(stage: Stage[Any, Any], value: object, least: int) -> None:
    assert stage.bounds(value).least == Amount(least, 0, 0, Decimal(0))
    limit = TokenUsage(llm_calls=least) if least else None  # a quorum does with what it has
    outcome = await stage.run(Model(wanted), value, max_cost=limit)
    assert outcome.unwrap().cost.llm_calls == least


async def test_many_inputs_may_all_fail_at_no_call() -> None:
    stage = complete().each()
    assert stage.bounds(["x", "y"]).least.llm_calls == 0
    spent = (await stage.run(Model(wanted), [3, 4])).unwrap()  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert (len(spent.value), spent.cost.llm_calls) == (2, 0)


TEMPERATURE = "Unsupported parameter: 'temperature'"
STREAM = "stream_options is not supported"
FORM = "response_format is not supported"


class Worst:
    """Refuses whatever it may, fails as often as it may, charges for all of it, and then answers.

    Args:
        at_once: Calls that are under way together; they are treated alike.
        calls: How many there are where forms are asked for: they are refused by name in the last of them.
        text: What it answers, told the number of the answer.
    """

    def __init__(
        self, at_once: int = 1, text: Callable[[int], str] = str, *, calls: int = 1, fails: bool = False
    ) -> None:
        self.at_once = at_once
        self.calls = calls
        self.text = text
        self.fails = fails
        self.fates: list[str] = []
        self.answers = 0
        self.has_begun = False

    def __call__(self, asked: Asked) -> object:
        if not self.fates:
            self.fates = [fate for fate in self.call(asked) for _ in range(self.at_once)]
        limit = asked.max_tokens or asked.options["max_completion_tokens"]
        match self.fates.pop(0):
            case "limit" if asked.max_tokens:
                return refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
            case "limit":
                return refusal("Unsupported parameter: 'max_completion_tokens'")
            case "down":
                return ProviderError("down", cost=TokenUsage(0, limit, 1))
            case "answer":
                self.answers += 1
                if self.fails:
                    return PermanentError("no", cost=TokenUsage(0, limit, 1))
                usage = {"prompt_tokens": 1, "completion_tokens": limit}
                calls = (ToolCall("a", "look", {"what": "x"}),) if asked.tools else ()
                return LLMResponse(self.text(self.answers), calls, usage=usage)
            case words:
                return refusal(words)

    def call(self, asked: Asked) -> list[str]:
        """Return what becomes of a call, attempt by attempt."""
        once, self.has_begun = [] if self.has_begun else [TEMPERATURE, STREAM], True
        self.calls -= 1
        named = [] if self.calls else [FORM, FORM]
        form = ["Bad Request", "down", *named] if asked.options.get("response_format") else []
        downs = ["down"] * (RETRIES.max_retries - form.count("down"))
        return [*once, "limit", *form, *downs, "answer"]


def refusal(words: str) -> PermanentError:
    return PermanentError(words, metadata={"status": 400})


def never(value: object) -> float:
    return 0.1


def differing(number: int) -> str:
    return f"text {number}" if number < 4 else "Response 1"


MOST: list[tuple[str, Stage[Any, Any], object, Worst]] = [
    ("complete", complete(max_tokens=30), "x", Worst()),
    ("consensus", consensus(3, max_tokens=30), "x", Worst(3)),
    ("one by one", consensus(3, max_tokens=30, max_concurrency=1), "x", Worst()),
    ("stopping", consensus(3, max_tokens=30, max_concurrency=1, stop=beta()), "x", Worst()),
    ("quorum", consensus(3, quorum=3, max_tokens=30), "x", Worst(3)),
    ("typed vote", consensus(2, output_type=int, max_tokens=30, max_concurrency=1), "x", Worst(calls=2)),
    ("select", select(3, max_tokens=30, max_concurrency=1), "x", Worst(1, differing)),
    ("refine", refine(never, max_iterations=2, patience=9, max_tokens=30), "x", Worst()),
    ("judged", refine(max_iterations=2, patience=9, max_tokens=30), "x", Worst(1, lambda n: "Score: 1")),
    ("typed refine", refine(never, output_type=int, max_iterations=1, output_retries=0), "x", Worst(calls=2)),
    ("structured", structured(int, output_retries=2, max_tokens=30), "x", Worst(1, lambda n: "[", calls=3)),
    ("chain", complete(max_tokens=30) >> complete(max_tokens=40), "x", Worst()),
    ("both", complete(max_tokens=30) & complete(max_tokens=30), "x", Worst(2)),
    ("either", complete(max_tokens=30) | complete(max_tokens=40), "x", Worst(fails=True)),
    ("map", complete(max_tokens=30).map(len), "x", Worst()),
    ("named", complete(max_tokens=30).named("one"), "x", Worst()),
    ("with input", complete(max_tokens=30).with_input(), "x", Worst()),
    ("checked", complete(max_tokens=30).checked(lambda text: "no", output_retries=1), "x", Worst()),
    ("prompt", prompt("Say {}") >> complete(max_tokens=30), "x", Worst()),
    ("each", complete(max_tokens=30).each(max_concurrency=2), ["x", "y"], Worst(2)),
    ("one after the other", complete(max_tokens=30).each(max_concurrency=1), ["x", "y"], Worst()),
]


@pytest.mark.parametrize(
    ("stage", "value", "worst"), [row[1:] for row in MOST], ids=[name for name, *_ in MOST]
)
async def test_the_most_is_met_by_every_stage(stage: Stage[Any, Any], value: object, worst: Worst) -> None:
    model = Model(deepcopy(worst), ticks=lambda asked: 3)
    bounds = stage.bounds(value, provider=model, retry=RETRIES)
    outcome = await stage.run(model, value, retry=RETRIES)
    cost = outcome.unwrap().cost if isinstance(outcome, Success) else outcome.failure().cost
    assert (cost.llm_calls, cost.output_tokens) == (bounds.most.llm_calls, bounds.most.output_tokens)
    assert cost.llm_calls == model.calls
    if worst.at_once == 1:
        assert bounds.depth == cost.llm_calls


async def test_a_loop_takes_the_most_but_for_what_only_its_messages_could_be_refused_for() -> None:
    stage = react([look], max_rounds=3, max_tokens=30)
    model = Model(Worst())
    bounds = stage.bounds("x", provider=model, retry=RETRIES)
    cost = (await stage.run(model, "x", retry=RETRIES)).failure().cost
    of_messages = 3 + 3  # thoughts in each call; ids, system messages and a forced tool once
    assert bounds.most.llm_calls - of_messages == cost.llm_calls == 3 * (3 + 1) + 2
    assert cost.output_tokens == bounds.most.output_tokens


async def test_a_budget_is_met() -> None:
    stage = consensus(9, max_tokens=30).within(TokenUsage(llm_calls=4))
    model = Model(Worst())
    bounds = stage.bounds("x", provider=model, retry=RETRIES)
    cost = (await stage.run(model, "x", retry=RETRIES)).failure().cost
    assert cost.llm_calls == bounds.most.llm_calls == 4


async def test_the_most_is_met_by_a_server_that_refuses_and_fails() -> None:
    refusals = [
        "Unsupported parameter: 'temperature'",
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "stream_options is not supported",
    ]
    model = Model(
        lambda asked: (
            PermanentError(refusals[asked.number - 1], metadata={"status": 400})
            if asked.number <= 3
            else ProviderError("down", cost=TokenUsage(0, 30, 1))
        )
    )
    stage = complete(temperature=0.5, max_tokens=30)
    bounds = stage.bounds("x", provider=model, retry=RETRIES)
    error = (await stage.run(model, "x", retry=RETRIES)).failure()
    assert error.cost.llm_calls == model.calls == bounds.most.llm_calls == 6
    assert error.cost.output_tokens == bounds.most.output_tokens == 90
    assert bounds.depth == 6


async def test_money_is_met_where_all_is_of_the_dearest_kind() -> None:
    price = Price(1_000_000, 2_000_000)
    model = Model(lambda asked: LLMResponse("x"))
    model.price, model.count_tokens = price, "bytes"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    bounds = complete(max_tokens=30).bounds("x", provider=model, retry=NEVER)
    cost = (
        (await complete(max_tokens=30).run(model, "x", retry=NEVER, max_cost=TokenUsage(usd=Decimal(10**6))))
        .unwrap()
        .cost
    )
    assert cost.usd is not None
    assert 0 <= bounds.most.usd - cost.usd <= 4  # "x" stands in the frame and beside it, in quotes


def test_many_inputs_are_so_many_times_one() -> None:
    provider = Server(Random(1))
    one = complete(max_tokens=9).bounds("xxxx", provider=provider)
    many = complete(max_tokens=9).each(max_concurrency=2).bounds(["x", "y", "z"], provider=provider)
    assert (one.most.llm_calls, one.depth) == (4 + 1 + 2, 4 + 1 + 2)
    assert many.most.llm_calls == 3 * (4 + 1) + 2 * 2
    assert (many.least.llm_calls, many.depth) == (0, 2 * (4 + 1) + 2)
    failing = complete().each(on_error="fail").bounds(["x", "y"], provider=provider)
    assert failing.least.llm_calls == 2
    assert complete().each().bounds(provider=provider).most.llm_calls == math.inf
    assert complete().each().bounds([], provider=provider).most.llm_calls == 0


def test_what_is_not_known_is_said() -> None:
    async def own(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return PatternResult(prompt)

    async def judge(text: str, provider: LLMProvider) -> float:
        return 1.0

    class Own(Stage[str, str], frozen=True):
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            return PatternResult(value)

    inf = math.inf
    for stage, words in (
        (step(own), "what own asks the model"),
        (Own(), "what Own asks the model"),
        (Buy("a"), "what Buy asks the model"),
        (refine(judge), "what the evaluator of Refine asks the model"),
    ):
        bounds = stage.bounds("x")
        assert bounds.most == Amount(inf, inf, inf, Decimal("Infinity"))
        assert any(words in why for why in bounds.unknown)
        limited = stage.within(TokenUsage(llm_calls=7, output_tokens=500)).bounds("x")
        assert (limited.most.llm_calls, limited.most.output_tokens) == (7, 500)
    assert complete().bounds().unknown == (
        "the length of the input: give bounds() the value",
        "the price: give bounds() a provider that has one",
    )
    chained = complete().map(str.upper) >> complete()
    assert any("what a function makes of the value of Complete" in why for why in chained.bounds("x").unknown)
    assert (complete() >> complete()).bounds("x", provider=Server(Random(1))).unknown == ()


def test_a_budget_is_a_bound() -> None:
    limit = TokenUsage(llm_calls=4, output_tokens=100, usd=Decimal("0.01"))
    provider = Server(Random(1))
    bounds = consensus(9).bounds("x", provider=provider, max_cost=limit)
    assert (bounds.most.llm_calls, bounds.most.output_tokens, bounds.most.usd) == (4, 100, Decimal("0.01"))
    with pytest.raises(ValueError, match="llm_calls"):
        consensus(9).bounds("x", max_cost=TokenUsage(llm_calls=-1))


def test_a_tool_that_asks_the_model_is_unbounded() -> None:
    @tool
    async def ask(question: str, context: Context) -> str:
        """Ask the model."""
        return "x"

    assert react([ask]).bounds("x").most.llm_calls == math.inf
    assert "what the tool ask asks the model" in react([ask]).bounds("x").unknown


def test_depth_counts_what_waits_for_something() -> None:
    one = complete(max_tokens=9)
    provider = Server(Random(1))

    def depth(stage: Stage[str, Any], **budget: Any) -> float:
        return (stage.bounds("x", provider=provider, retry=NEVER, **budget).depth - 2) / 2

    assert depth(one >> one >> one) == 3
    assert depth(one & one) == 1
    assert depth(one & one, max_cost=TokenUsage(output_tokens=99)) == 2
    assert depth(consensus(20, max_concurrency=20)) == 2
    assert depth(consensus(20, max_concurrency=1)) == 20
