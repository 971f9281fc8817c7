"""Bounds: no run is outside of them. That both ends are met is in `test_bounds_met.py`."""

import math
import os
from collections.abc import Callable
from decimal import Decimal
from random import Random
from statistics import median
from typing import Any, Final

import msgspec
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
from executionkit.voting import ByProbability, beta, certain, unanimous_window
from tests.doubles import AT_ONCE, NEVER, Buy, Model, each
from tests.pipelines import ALL_STAGES, stages_within

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
    "logprobs is not supported",
    "reasoning_content is not supported",
    "reasoning_content is required: it must be passed back",
    "tool_call_id must be nine characters long",
    "only one system message is allowed",
    "Bad Request",
)
TEXTS = ("yes", "no", "[1, 2]", "Score: 7", "Response 1", "1", '{"a":1}', '{"call":"look"}')
FATES = ("answer",) * 9 + ("again", "down", "permanent", "refused", "billed", "silent")
Text = Stage[str, str]


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"{what} is there"


class Server:
    """A server that honours the output limit, and whose texts are no longer than their tokens."""

    count_tokens = "bytes"

    def __init__(self, random: Random, fates: tuple[str, ...] = FATES) -> None:
        self.random = random
        self.supports_tools = random.random() < 0.7
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
            usage = {"prompt_tokens": given, "completion_tokens": limit}
            return LLMResponse("", (call,), "tool_calls", usage, extra={"reasoning_content": "x"})
        text = random.choice(TEXTS)
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
    talk = random.choice(((), TALK))
    stop_weighed = random.choice((None, certain()))
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
        lambda: consensus(3, output_type=Pair, by_field=True, max_tokens=size, system="Be brief.").map(str),
        lambda: consensus(3, weigh=ByProbability(), max_tokens=size, providers=some, stop=stop_weighed),
        lambda: select(4, max_tokens=size, providers=some, one_request=True, system="Be brief."),
        lambda: react([look], output_type=list[int], max_rounds=3, max_tokens=size, transcript=talk).map(str),
        lambda: react(
            [look],
            max_rounds=4,
            max_tokens=size,
            max_history_messages=3,
            summarise=complete(max_tokens=20),
            on_limit="answer",
        ),
        lambda: step(nested, max_cost=TokenUsage(llm_calls=random.randint(1, 4))),
        lambda: complete(max_tokens=size).or_else(complete(max_tokens=9), on=(PermanentError,)),
        lambda: identity(str) >> complete(max_tokens=size),
    )
    return random.choice(makers)()


class Pair(msgspec.Struct):
    """A value whose fields are voted on one by one."""

    a: int
    b: str = ""


async def nested(provider: LLMProvider, text: str, max_cost: TokenUsage | None = None) -> PatternResult[str]:
    outcome = await consensus(2, max_tokens=9).run(provider, text, max_cost=max_cost)
    return PatternResult(outcome.unwrap().value if isinstance(outcome, Success) else "nothing")


TALK: Final = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "It", "reasoning_content": "It is it."},
)
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
        or cost.input_tokens > most.input_tokens
        or cost.output_tokens > most.output_tokens
        or (cost.usd or 0) > most.usd
    )
    least = bounds.least
    is_below = cost.llm_calls < least.llm_calls or cost.output_tokens < least.output_tokens
    return is_above or (answered and is_below)


def times(most: float | Decimal, taken: float | Decimal) -> list[float]:
    """Return how far the most is from what was taken, where it is bounded."""
    return [float(most) / float(taken)] if taken and math.isfinite(most) else []


async def test_no_run_is_outside_of_its_bounds() -> None:
    wrong: list[int] = []
    seen: set[type[Any]] = set()
    ratios: dict[str, list[float]] = {"calls": [], "output tokens": [], "money": []}
    for seed in range(PIPELINES):
        random = Random(seed)
        servers = [Server(random) for _ in range(random.randint(1, 3))]
        pipeline: Stage[Any, Any] = tree(random, servers)
        value: Any = "What is it?"
        if random.random() < 0.2:
            value = ["What is it?", "And that?", "Why, then?"][: random.randint(1, 3)]
            pipeline = pipeline.each(
                max_concurrency=random.randint(1, 3), on_error=random.choice(("collect", "fail"))
            )
        seen |= stages_within(pipeline)
        provider: Any = Pool(servers) if random.random() < 0.2 else servers[0]
        limit = random_limit(random) if random.random() < 0.3 else None
        retry = random.choice((NEVER, AT_ONCE, RetryConfig(max_retries=1, base_delay=0)))
        bounds = pipeline.bounds(value, provider=provider, retry=retry, max_cost=limit)
        outcome = await pipeline.run(provider, value, max_cost=limit, retry=retry)
        answered = isinstance(outcome, Success)
        cost = outcome.unwrap().cost if answered else outcome.failure().cost
        if outside(cost, bounds, answered=answered):
            wrong.append(seed)
        ratios["calls"] += times(bounds.most.llm_calls, cost.llm_calls)
        ratios["output tokens"] += times(bounds.most.output_tokens, cost.output_tokens)
        ratios["money"] += times(bounds.most.usd, cost.usd or 0)
    far = ", ".join(f"{median(found):.1f} of {what} ({len(found)})" for what, found in ratios.items())
    print(f"{PIPELINES} pipelines, {len(wrong)} outside; most / actual in the median: {far}")
    assert wrong == []
    assert seen - {Twice} == ALL_STAGES


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
    ("react", lambda: react([look], max_rounds=3, max_tokens=30), 3 * 4 + 2 + 2 + 1),
    ("last words", lambda: react([look], max_rounds=3, on_limit="answer"), 4 * 4 + 3 + 2 + 1),
    ("in one request", lambda: consensus(4, one_request=True), 4 * 4 + (4 + 1) + 2 * 4 + 1),
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


def test_what_a_provider_adds_to_every_request_is_a_part_of_its_prompt() -> None:
    class Adding(Server):
        extra_body: Final = {"documents": ["x" * 999]}

    def prompt_of(provider: LLMProvider) -> float:
        most = complete(max_tokens=9).bounds("x", provider=provider, retry=RETRIES).most
        return most.input_tokens / most.output_tokens * 9

    plain, adding = Server(Random(1)), Adding(Random(1))
    added = len('{"documents":[""]}') + 999
    assert prompt_of(adding) == pytest.approx(prompt_of(plain) + added)
    assert prompt_of(Pool([plain, adding])) == pytest.approx(prompt_of(Pool([plain])) + added)
    assert complete().using(adding).bounds("x", provider=plain).most.input_tokens > 4 * added


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


def test_a_pair_is_bounded_by_its_texts_as_long_as_they_are_taken_one_by_one() -> None:
    one, provider = complete(max_tokens=30), Server(Random(1))

    def unknown(stage: Stage[str, Any]) -> tuple[str, ...]:
        return (stage >> one).bounds("x", provider=provider).unknown

    as_json = ("how much longer a pair is as JSON than its texts",)
    assert unknown(one.with_input() >> prompt("{0}, {1}")) == ()
    assert unknown((one & one) >> prompt("{1}")) == ()
    assert unknown(one.with_input() >> prompt("{}")) == as_json
    assert unknown(((one & one) & one) >> prompt("{0}")) == as_json
    assert unknown(one.with_input().with_input() >> prompt("{1}")) == as_json


def test_a_budget_is_a_bound() -> None:
    limit = TokenUsage(llm_calls=4, output_tokens=100, usd=Decimal("0.01"))
    provider = Server(Random(1))
    bounds = consensus(9).bounds("x", provider=provider, max_cost=limit)
    assert (bounds.most.llm_calls, bounds.most.output_tokens, bounds.most.usd) == (4, 100, Decimal("0.01"))
    little = (consensus(2) >> consensus(2)).bounds("x", max_cost=TokenUsage(output_tokens=1))
    assert little.least.output_tokens == little.most.output_tokens == 1
    with pytest.raises(ValueError, match="llm_calls"):
        consensus(9).bounds("x", max_cost=TokenUsage(llm_calls=-1))


def test_a_budget_of_calls_bounds_their_tokens() -> None:
    provider = Server(Random(1))
    one = complete(max_tokens=30).bounds("x", provider=provider, retry=NEVER).most
    stage = (consensus(9, max_tokens=30) >> complete(max_tokens=20)).within(TokenUsage(llm_calls=2))
    most = stage.bounds("x", provider=provider).most
    assert (most.output_tokens, most.usd) == (2 * 30, 2 * one.usd)
    assert most.input_tokens == 2 * (one.input_tokens - len("x") + 30)
    several = consensus(9, one_request=True, max_tokens=30).within(TokenUsage(llm_calls=1))
    assert several.bounds("x", provider=provider).most.output_tokens == 9 * 30


def test_a_budget_is_a_bound_only_where_all_prompts_are_counted_by_one() -> None:
    class Estimated(Server):
        count_tokens = "estimate"

    counted, estimated = Server(Random(1)), Estimated(Random(1))
    limit = TokenUsage(input_tokens=9, usd=Decimal("0.000001"))

    async def own(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return PatternResult(prompt)

    def is_bound(stage: Stage[Any, Any], provider: LLMProvider) -> bool:
        most = stage.bounds("x", provider=provider, max_cost=limit).most
        within = stage.within(limit).bounds("x", provider=provider).most
        assert (most.usd, most.input_tokens) == (within.usd, within.input_tokens)
        return (most.usd, most.input_tokens) == (limit.usd, limit.input_tokens)

    asks = complete(max_tokens=9)
    assert is_bound(asks, counted)
    assert is_bound(asks.using(counted), estimated)
    assert not is_bound(asks, estimated)
    assert not is_bound(asks.using(estimated), counted)
    assert not is_bound(asks & asks.using(estimated), counted)
    assert not is_bound(consensus(2, providers=[counted, estimated]), counted)
    assert is_bound(step(own), counted)
    assert not is_bound(step(own), estimated)
    assert not is_bound(step(own).within(TokenUsage(llm_calls=3)), estimated)


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
    assert depth(consensus(5, stop=certain())) == 5  # three at once, and then one by one


class Dear:
    """A model whose replies are cut off, and whose last words end, one request after the other, at a budget."""

    supports_tools = True

    def __init__(self, left: int) -> None:
        self.left, self.asked, self.calls = left, 0, 0
        self.fates: list[str] = []

    def count_tokens(self, *parts: object) -> int:
        self.asked = bound_input(*parts)
        return self.asked

    async def complete(
        self, messages: list[Message], *, max_tokens: int | None = None, **_kwargs: Any
    ) -> LLMResponse:
        self.calls += 1
        is_last = messages[-1]["content"].startswith("No tool")
        if not self.fates:
            roles = [message["role"] for message in messages]
            has_thoughts = any("reasoning_content" in message for message in messages)
            thoughts = ["not supported" if has_thoughts else "required"] * ("assistant" in roles)
            self.fates = ["limit", *thoughts, "down", "dear" if is_last else "down", "answer"]
        match self.fates.pop(0):
            case "limit":
                name = "max_tokens" if max_tokens else "max_completion_tokens"
                raise PermanentError(f"Unsupported parameter: '{name}'", metadata={"status": 400})
            case "required":
                words = "reasoning_content is required: it must be passed back"
                raise PermanentError(words, metadata={"status": 400})
            case "not supported":
                raise PermanentError("reasoning_content is not supported", metadata={"status": 400})
            case "dear" if 0 <= self.left - self.asked < self.asked:
                cost = self.left - self.asked + 1
                self.left, self.fates = self.left - cost, []
                raise ProviderError("down", cost=TokenUsage(cost, 0, 1))
            case "down" | "dear":
                raise ProviderError("down")
            case _ if is_last:
                return LLMResponse("done", usage={"prompt_tokens": 1, "completion_tokens": 1})
            case _:
                usage = {"prompt_tokens": 0, "completion_tokens": 1}
                return LLMResponse("", (), "length", usage, extra={"reasoning_content": "x"})


async def test_last_words_that_a_budget_has_no_room_for_are_asked_for_again_within_the_bounds() -> None:
    stage = react([look], max_rounds=8, max_tokens=30, on_limit="answer")
    unlimited = Dear(0)
    await stage.run(unlimited, "x", retry=RETRIES, max_cost=TokenUsage(input_tokens=10**6))
    limit = TokenUsage(input_tokens=unlimited.asked)
    model = Dear(unlimited.asked)
    bounds = stage.bounds("x", provider=model, retry=RETRIES, max_cost=limit)
    await stage.run(model, "x", retry=RETRIES, max_cost=limit)
    rounds = 2 * 8  # each reply, and what it was told
    assert model.calls > 8 * 5 + (rounds - 1) * 4
    assert model.calls <= bounds.most.llm_calls == (8 + rounds) * (3 + 2) - 1 + 3


async def test_a_call_that_others_wait_for_is_part_of_the_depth() -> None:
    one = structured(int, output_retries=0, max_tokens=9)

    def refused(words: str) -> PermanentError:
        return PermanentError(words, metadata={"status": 400})

    limit, form = "Unsupported parameter: 'max_completion_tokens'", "response_format is not supported"
    model = Model(
        each(
            *map(refused, ["Unsupported parameter: 'temperature'", "stream_options is not supported"]),
            refused("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
            refused("Bad Request"),
            *[ProviderError("down")] * 2,
            LLMResponse("1"),
            *map(refused, [limit, form, form]),
            *[ProviderError("down")] * 2,
            LLMResponse("1"),
        )
    )
    bounds = (one & one).bounds("x", provider=model, retry=RETRIES)
    assert isinstance(await (one & one).run(model, "x", retry=RETRIES), Success)
    assert (model.most_in_flight, model.calls) == (1, 13)
    assert bounds.depth >= 13

    def depth(stage: Stage[Any, Any], value: object = "x", **budget: Any) -> float:
        return stage.bounds(value, provider=model, retry=RETRIES, **budget).depth

    attempts = 3 + 1 + 1  # another name of the output limit, and once without the form
    refusals = 2 + 2 * 2  # temperature, the usage of a stream, and forms
    assert depth(one & one) == 2 * attempts + refusals
    assert depth((one & one) & one) == depth(one & one) + 2
    weighed = consensus(1, weigh=ByProbability())
    assert depth(weighed & weighed) == 2 * attempts + 3  # of which one is for the log-probabilities
    assert depth(one & complete()) == attempts + 2 + 2
    assert depth(one & one.using(Server(Random(1)))) == attempts + 2 * (2 + 2)
    assert depth(one.each(max_concurrency=4), ["x", "y"]) == 2 * attempts + refusals
    assert depth(one.each(max_concurrency=1), ["x", "y"]) == 2 * attempts + 2 + 2
    assert depth(one & one, max_cost=TokenUsage(output_tokens=99)) == 2 * attempts + refusals
