"""The ledger under load: budgets hold, nothing waits for ever, nothing paid for is lost."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.result import Success
from typing_extensions import override

from executionkit import compat
from executionkit.core.budget import Refused, estimate_input
from executionkit.core.dialect import Request
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    ExecutionKitError,
    PermanentError,
    ProviderError,
    RateLimitError,
)
from executionkit.outcome import Outcome, PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMProvider, LLMResponse, Message, user
from executionkit.runtime.context import Context, tighten
from executionkit.runtime.frame import Settings
from executionkit.runtime.ledger.accounts import Account
from executionkit.runtime.ledger.cost_tracker import CostTracker
from executionkit.runtime.ledger.reservation import Reservation, reserve
from executionkit.stage import Stage
from tests.doubles import (
    AT_ONCE,
    NEVER,
    Asked,
    Buy,
    Model,
    each,
    either,
    error_of,
    held,
    joined,
    new_context,
    paired,
    reply,
    result_of,
    soon,
)

pytestmark = pytest.mark.anyio


class FateError(Exception):
    """What a provider of somebody else's raises."""


class Shop(Model):
    """A model that honours `max_tokens`, and keeps the books that the ledger should keep.

    Each call meets the next of a list of fates, and the whole is checked whenever a call is sent.
    """

    def __init__(self, fates: list[tuple[str, int]], limit: TokenUsage) -> None:
        super().__init__(self._meet, lambda asked: self._fate(asked)[1])
        self.fates = fates
        self.limit = limit
        self.settled_output = 0
        self.promised = 0
        self.estimated = 0
        self.overruns = 0

    def _fate(self, asked: Asked) -> tuple[str, int]:
        return self.fates[asked.number % len(self.fates)] if self.fates else ("answer", 1)

    @override
    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        granted = kwargs["max_tokens"] or DEFAULT_MAX_TOKENS
        self.promised += granted
        most = self.limit.output_tokens
        # Noted, not asserted: what a provider raises is wrapped.
        self.overruns += bool(most) and self.settled_output + self.promised > most
        self.overruns += bool(self.limit.llm_calls) and self.calls >= self.limit.llm_calls
        self.overruns += granted < 1
        try:
            response = await super().complete(messages, **kwargs)
        except BaseException:
            self.promised -= granted
            raise
        self.promised -= granted
        self.settled_output += response.output_tokens or granted  # no output beside a text is no figure
        self.estimated += not response.output_tokens
        return response

    def _meet(self, asked: Asked) -> object:
        kind, size = self._fate(asked)
        match kind:
            case "again":
                return RateLimitError("busy")
            case "broken":
                return ProviderError("down")
            case "permanent":
                return PermanentError("no")
            case "foreign":
                return FateError("own")
            case "silent":
                return LLMResponse(f"text {size}")
            case _:
                return reply(f"text {size}", 5, min(asked.max_tokens or 4096, size * 9))


CAPS_BROKEN: list[tuple[TokenUsage, TokenUsage]] = []


class Capped(Stage[str, str], frozen=True):
    """A stage within a budget, which checks on leaving that the budget held."""

    stage: Stage[str, str]
    limit: TokenUsage

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        tighten(context, self.limit)
        try:
            return await self.stage.perform(value, context)
        finally:
            spent, most = context.cost, self.limit
            if (most.llm_calls and spent.llm_calls > most.llm_calls) or (
                most.output_tokens and spent.output_tokens > most.output_tokens
            ):
                CAPS_BROKEN.append((spent, most))


async def asking(text: str, provider: LLMProvider) -> float:
    await provider.complete([user(f"rate {text}")], max_tokens=30)
    return (len(text) % 10) / 10


async def nested(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    return await compat.consensus(provider, prompt, num_samples=3, max_tokens=40)


async def deaf(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    """A step that ignores `max_cost` and every failure."""
    text = prompt
    for _ in range(3):
        try:
            text = (await provider.complete([user(prompt)])).content
        except ExecutionKitError:
            continue
    return PatternResult(text)


LIMITS = st.builds(
    TokenUsage,
    st.just(0) | st.integers(50, 500),
    st.just(0) | st.integers(5, 400),
    st.just(0) | st.integers(1, 12),
)
LEAVES: list[Stage[str, str]] = [
    complete(max_tokens=50),
    complete(),
    consensus(n=4, max_concurrency=4, max_tokens=30),
    consensus(n=5),
    refine(asking, max_iterations=1, max_tokens=60),
    step(nested),
    step(deaf),
    Buy("a", 2),
]
TREES: st.SearchStrategy[Stage[str, str]] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: (
        st.builds(joined, inner, inner)
        | st.builds(either, inner, inner)
        | st.builds(paired, inner, inner)
        | st.builds(Capped, inner, LIMITS)
    ),
    max_leaves=5,
)
FATES = st.lists(
    st.tuples(
        st.sampled_from(["answer", "answer", "answer", "silent", "again", "broken", "permanent", "foreign"]),
        st.integers(0, 5),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES, fates=FATES, limit=LIMITS)
async def test_whatever_happens_the_books_balance(
    tree: Stage[str, str], fates: list[tuple[str, int]], limit: TokenUsage
) -> None:
    shop = Shop(fates, limit)
    account = Account(None, limit)
    context = new_context(shop, account, Settings(AT_ONCE, None, None))
    outcome = await soon(context.attempt(lambda below: below.run(tree, "question")))
    spent = account.cost
    assert held(account) == NO_USAGE
    assert shop.in_flight == shop.overruns == 0
    assert not CAPS_BROKEN
    assert spent.llm_calls == shop.calls
    assert spent.output_tokens == shop.settled_output
    assert account.caveats.unreported == shop.estimated
    if isinstance(outcome, Success):
        assert result_of(outcome).cost == spent
        assert result_of(outcome).metadata.get("usage_estimated", 0) == shop.estimated
    else:
        assert error_of(outcome).cost == spent
        assert error_of(outcome).metadata.get("usage_estimated", 0) == shop.estimated
        assert (
            not isinstance(error_of(outcome), BudgetExhaustedError)
            or limit != NO_USAGE
            or "Capped" in repr(tree)
        )


async def test_five_samples_in_300_tokens_are_slow_not_wrong() -> None:
    model = Model(lambda asked: reply("Paris", 5, 40), ticks=lambda asked: 3)
    outcome = await soon(consensus(n=5).run(model, "capital?", max_cost=TokenUsage(output_tokens=300)))
    assert result_of(outcome).value == "Paris"
    assert [asked.max_tokens for asked in model.asked] == [300, 260, 220, 180, 140]
    assert model.most_in_flight == 1
    assert result_of(outcome).cost == TokenUsage(25, 200, 5)


async def test_a_call_that_fits_beside_others_does_not_wait() -> None:
    model = Model(ticks=lambda asked: 3)
    stage = consensus(n=6, max_tokens=100, max_concurrency=6)
    result_of(await soon(stage.run(model, "x", max_cost=TokenUsage(output_tokens=300))))
    assert model.most_in_flight == 3


async def test_calls_are_counted_exactly_and_paid_votes_are_kept() -> None:
    model = Model(ticks=lambda asked: asked.number)
    stage = consensus(n=20, max_concurrency=20)
    error = error_of(await soon(stage.run(model, "x", max_cost=TokenUsage(llm_calls=7))))
    assert isinstance(error, BudgetExhaustedError)
    assert model.calls == 7
    assert error.cost == TokenUsage(21, 14, 7)
    assert error.metadata["votes"] == ("ok",) * 7


@pytest.mark.parametrize("inner", [TokenUsage(output_tokens=5), TokenUsage(output_tokens=12)])
async def test_a_small_budget_within_a_larger_one_is_used_up(inner: TokenUsage) -> None:
    # Another branch leaves the run less than is useful, but enough for what the inner budget allows at most.
    model = Model(
        each(reply("x", 1, 288), ProviderError("busy"), reply("y", 1, inner.output_tokens)),
        ticks=lambda asked: 2,
    )
    context = new_context(model, Account(None, TokenUsage(output_tokens=300)), Settings(AT_ONCE, None, None))
    await context.complete([user("big")], max_tokens=300)
    small = consensus(n=1).within(inner)
    assert result_of(await soon(context.attempt(lambda below: below.run(small, "small")))).value == "y"
    assert [asked.max_tokens for asked in model.asked[1:]] == [inner.output_tokens] * 2


async def test_a_call_is_refused_only_when_nothing_in_flight_can_make_room() -> None:
    """Two calls, the second of which fits only if the first settles at less than it reserved."""
    release = anyio.Event()

    class Slow(Model):
        @override
        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            if not self.asked:
                response = await super().complete(messages, **kwargs)
                await release.wait()
                return response
            return await super().complete(messages, **kwargs)

    model = Slow(each(reply("a", 1, 10), reply("b", 1, 10)))
    account = Account(None, TokenUsage(output_tokens=100))
    context = new_context(model, account, Settings(NEVER, None, None))
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            await context.complete([user("x")], max_tokens=90)

        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert model.calls == 1
        assert held(account).output_tokens == 90
        release.set()
    assert [asked.max_tokens for asked in model.asked] == [90, 90]
    tight = new_context(model, Account(None, TokenUsage(output_tokens=25)), Settings(NEVER, None, None))
    await tight.complete([user("x")])
    with pytest.raises(BudgetExhaustedError, match="10 of 25 output tokens"):
        await tight.complete([user("x")])


async def test_input_waits_for_its_estimate_and_settles_on_the_report() -> None:
    model = Model(lambda asked: reply("x", 30, 1), ticks=lambda asked: 3)
    prompt = "word " * 80  # estimated at 105 tokens
    outcome = await soon(consensus(n=3).run(model, prompt, max_cost=TokenUsage(input_tokens=170)))
    assert result_of(outcome).cost == TokenUsage(90, 3, 3)
    assert model.most_in_flight == 1
    error = error_of(await consensus(n=3).run(model, prompt, max_cost=TokenUsage(input_tokens=104)))
    assert "the call needs about 105" in str(error)
    assert error.cost == NO_USAGE


async def test_the_template_of_a_short_prompt_does_not_inflate_a_long_one() -> None:
    model = Model(lambda asked: reply("x", 40 if len(asked.prompt) < 9 else 2050, 1))
    stage = complete()
    context = new_context(model, Account(None, TokenUsage(input_tokens=3000)), Settings(NEVER, None, None))
    await context.run(stage, "hi")  # estimated at 5, counted as 40
    assert (await context.run(stage, "long " * 1600)).value == "x"


async def test_a_server_that_counts_more_than_estimated_is_believed_from_then_on() -> None:
    model = Model(lambda asked: reply("x", 2000, 1))
    context = new_context(model, Account(None, TokenUsage(input_tokens=4000)), Settings(NEVER, None, None))
    await context.complete([user("x" * 4000)])  # estimated at 1004
    await context.complete([user("x" * 3900)])
    with pytest.raises(BudgetExhaustedError):
        await context.complete([user("x")])


async def test_a_paid_answer_is_kept_though_it_overshot() -> None:
    model = Model(lambda asked: reply("long", 5, 900))
    chain = complete() >> complete()
    error = error_of(await chain.run(model, "x", max_cost=TokenUsage(output_tokens=300)))
    assert isinstance(error, BudgetExhaustedError)
    assert error.cost == TokenUsage(5, 900, 1)
    assert error.metadata["step_count"] == 1
    alone = result_of(await complete().run(model, "x", max_cost=TokenUsage(output_tokens=300)))
    assert (alone.value, alone.cost.output_tokens) == ("long", 900)


@pytest.mark.parametrize(
    "usage", [{}, None, "many", {"prompt_tokens": -1, "completion_tokens": -1}, {"completion_tokens": 1e9}]
)
@pytest.mark.parametrize("limit", [None, TokenUsage(output_tokens=100_000)])
async def test_missing_or_absurd_usage_settles_at_the_reservation(
    usage: Any, limit: TokenUsage | None
) -> None:
    model = Model(each(LLMResponse("a", usage=usage), reply("b", 9, 1), LLMResponse("c", usage=usage)))
    stage = complete(max_tokens=70) >> complete() >> complete(max_tokens=30)
    result = result_of(await stage.run(model, "x" * 40, max_cost=limit))
    assert result.metadata["usage_estimated"] == 2
    assert result.cost.output_tokens == 70 + 1 + 30
    assert result.cost.input_tokens > 14 + 9
    assert [
        step["usage_estimated"] for step in result.metadata["step_metadata"] if step.get("usage_estimated")
    ] == [
        1,
        1,
    ]
    clean = result_of(await complete().run(Model(), "x"))
    assert "usage_estimated" not in clean.metadata


async def test_an_error_says_how_many_calls_were_estimated() -> None:
    model = Model(each(LLMResponse("a"), LLMResponse("b"), PermanentError("no")))
    inner = (complete() >> complete()).map(str)
    error = error_of(await (inner >> complete()).run(model, "x"))
    assert error.metadata["usage_estimated"] == 2


async def test_every_attempt_counts() -> None:
    model = Model(each(RateLimitError("busy"), ProviderError("down"), reply()))
    assert result_of(await complete().run(model, "x", retry=AT_ONCE)).cost == TokenUsage(3, 2, 3)
    down = Model(each(ProviderError("down")))
    error = error_of(await complete().run(down, "x", retry=AT_ONCE))
    assert (error.cost.llm_calls, down.calls, error.metadata["attempts"]) == (4, 4, 4)


async def test_tokens_that_a_failure_says_it_cost_are_counted() -> None:
    model = Model(each(ProviderError("cut off", cost=TokenUsage(7, 3, 1)), reply()))
    assert result_of(await complete().run(model, "x", retry=AT_ONCE)).cost == TokenUsage(10, 5, 2)


async def test_retries_draw_on_the_budget_too() -> None:
    model = Model(each(RateLimitError("busy")))
    error = error_of(await complete().run(model, "x", max_cost=TokenUsage(llm_calls=2), retry=AT_ONCE))
    assert isinstance(error, BudgetExhaustedError)
    assert isinstance(error.__cause__, RateLimitError)
    assert (model.calls, error.cost.llm_calls) == (2, 2)


async def test_evaluators_and_steps_draw_on_the_same_ledger() -> None:
    model = Model()
    result = result_of(await refine(asking, max_iterations=0).run(model, "x"))
    assert result.cost.llm_calls == model.calls == 2
    for budget, calls in ((TokenUsage(llm_calls=2), 2), (TokenUsage(llm_calls=4), 4)):
        model = Model()
        outcome = await (step(deaf) >> step(nested)).run(model, "x", max_cost=budget)
        assert isinstance(error_of(outcome), BudgetExhaustedError)
        assert error_of(outcome).cost.llm_calls == model.calls == calls


async def test_cost_past_the_ledger_is_charged() -> None:
    other = Model()

    async def elsewhere(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await provider.complete([user("here")])
        return await compat.consensus(other, prompt, num_samples=3)

    result = result_of(await step(elsewhere).run(Model(), "x"))
    assert result.cost.llm_calls == 3  # it said so itself; what it does not say can not be known

    async def honest(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await provider.complete([user("here")])
        paid = await compat.consensus(other, prompt, num_samples=3)
        return paid.stamped(paid.cost + TokenUsage(3, 2, 1))

    assert result_of(await step(honest).run(Model(), "x")).cost == TokenUsage(12, 8, 4)


@pytest.mark.parametrize("wrong", [-100, 0, 1.5, "9"])
async def test_a_wrong_max_tokens_buys_no_room(wrong: Any) -> None:
    async def cheat(text: str, provider: LLMProvider) -> float:
        await provider.complete([user(text)], max_tokens=wrong)
        return 1.0

    model = Model()
    error = error_of(await refine(cheat).run(model, "x", max_cost=TokenUsage(output_tokens=100)))
    assert "max_tokens must be" in str(error)
    assert (model.calls, error.cost.llm_calls) == (1, 1)


async def test_a_stage_bound_to_the_metered_provider_pays_once() -> None:
    async def evaluate(text: str, provider: LLMProvider) -> float:
        result_of(await complete().using(provider).run(provider, text))
        return 1.0

    model = Model()
    limit = TokenUsage(output_tokens=100)
    result = result_of(await soon(refine(evaluate).run(model, "x", max_cost=limit)))
    assert result.cost == TokenUsage(6, 4, 2)
    assert model.calls == 2


class Together(Model):
    """Answers its first `count` calls in one turn of the event loop."""

    def __init__(self, count: int, answer: Callable[[Asked], object]) -> None:
        super().__init__(answer, ticks=lambda asked: 0)
        self.count = count
        self.resumed = 0
        self.go = anyio.Event()

    async def opened(self, run: Awaitable[Outcome[Any]]) -> Outcome[Any]:
        """Await a run, and let its calls return once there are enough of them."""
        outcomes: list[Outcome[Any]] = []
        async with anyio.create_task_group() as group:

            async def open_up() -> None:
                while self.calls < self.count:
                    await checkpoint()
                await anyio.wait_all_tasks_blocked()
                self.go.set()

            group.start_soon(open_up)
            outcomes.append(await run)
        return outcomes[0]

    @override
    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        self.asked.append(Asked(self.calls + 1, messages, None, None, None, {}))
        number = self.calls
        await self.go.wait()
        self.resumed += 1
        answered = self._answer(self.asked[number - 1])
        if isinstance(answered, BaseException):
            raise answered
        return reply()


async def test_the_first_failure_buys_no_new_calls() -> None:
    """Both branches hear back in the same turn; the second must not go on though it is not cancelled yet."""

    def fate(asked: Asked) -> object:
        return PermanentError("no") if model.resumed == 1 else reply()

    for branches in ((complete(), complete() >> complete()), (complete() >> complete(), complete())):
        model = Together(2, fate)
        error = error_of(await soon(model.opened((branches[0] & branches[1]).run(model, "x"))))
        assert str(error) == "no"
        assert (model.calls, error.cost.llm_calls) == (2, 2)


async def test_the_first_failure_comes_back_alone_and_notes_the_others() -> None:
    model = Together(3, lambda asked: PermanentError(f"no {asked.number}"))
    error = error_of(await soon(model.opened(consensus(n=3).run(model, "x"))))
    assert isinstance(error, PermanentError)
    others = error.metadata["other_failures"]
    assert others
    assert all(other.startswith("PermanentError: no ") for other in others)
    assert error.cost.llm_calls == 3


async def test_what_is_in_flight_is_cancelled_at_the_first_failure() -> None:
    model = Model(
        lambda asked: PermanentError("no") if asked.number == 2 else reply(),
        ticks=lambda asked: 2 if asked.number == 2 else 10_000,
    )
    error = error_of(await soon(consensus(n=50, max_concurrency=4).run(model, "x")))
    assert (model.calls, model.cancelled, model.in_flight) == (4, 3, 0)
    assert error.cost == TokenUsage(0, 0, 4)


async def test_the_ledger_can_be_used_after_a_failure_beside_it() -> None:
    failing = Model(lambda asked: PermanentError("no") if asked.number <= 2 else reply())
    stage = (complete() & complete()).map(str) | complete()
    result = result_of(await soon(stage.run(failing, "x", max_cost=TokenUsage(output_tokens=10_000))))
    assert result.value == "ok"
    assert result.cost.llm_calls == failing.calls


async def test_an_exception_without_a_text_settles_its_call() -> None:
    class MuteError(Exception):
        @override
        def __str__(self) -> str:
            raise RuntimeError("no text")

    model = Model(each(MuteError(), reply()))
    limit = TokenUsage(output_tokens=100)
    assert result_of(await soon((complete() | complete()).run(model, "x", max_cost=limit))).value == "ok"
    error = error_of(await complete().run(Model(each(MuteError())), "x"))
    assert str(error) == "the provider raised MuteError"


def test_a_tracker_counts_in_two_phases() -> None:
    tracker = CostTracker()
    tracker.reserve_call()
    assert (tracker.call_count, tracker.total_tokens) == (1, 0)
    tracker.record_without_call(reply("x", 7, 2))
    tracker.record(reply("x", 1, 1))
    tracker.add_usage(TokenUsage(1, 1, 3))
    assert tracker.to_usage() == tracker.snapshot() == TokenUsage(9, 4, 5)
    assert (tracker.call_count, tracker.total_tokens) == (5, 13)


async def test_no_call_is_admitted_twice_for_the_last_place() -> None:
    account = Account(None, TokenUsage(llm_calls=1))
    request = Request([user("x")])
    first = await reserve(account.payers, request)
    second = await reserve(account.payers, request)
    assert type(first).__name__ == "Reservation"
    assert type(second).__name__ == "Refused"


async def test_several_answers_in_one_request_reserve_what_all_may_take() -> None:
    asked: list[int | None] = []

    class Several:
        async def complete(
            self, messages: list[Message], *, max_tokens: int | None = None, **kwargs: Any
        ) -> LLMResponse:
            asked.append(max_tokens)
            return LLMResponse("a")

    class Samples(Stage[str, str], frozen=True):
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            response = await context.complete([{"role": "user", "content": value}], max_tokens=50, n=3)
            return PatternResult(response.content)

    free = result_of(await Samples().run(Several(), "x"))
    bounded = result_of(await Samples().run(Several(), "x", max_cost=TokenUsage(output_tokens=90)))
    assert (free.cost.output_tokens, bounded.cost.output_tokens) == (150, 90)
    assert asked == [50, 30]


@pytest.mark.parametrize(
    ("outer", "inner", "left"),
    [
        (None, None, NO_USAGE),
        (TokenUsage(100, 50, 5), None, TokenUsage(90, 43, 4)),
        (None, TokenUsage(0, 50, 2), TokenUsage(0, 43, 1)),
        (TokenUsage(100, 50, 5), TokenUsage(60, 60, 3), TokenUsage(50, 43, 2)),
        (TokenUsage(100, 50, 5), TokenUsage(llm_calls=1), None),
        (TokenUsage(output_tokens=7), TokenUsage(llm_calls=5), None),
    ],
)
def test_what_is_left_is_what_every_account_allows(
    outer: TokenUsage | None, inner: TokenUsage | None, left: TokenUsage | None
) -> None:
    run = Account(None, outer)
    stage = Account(run, inner)
    stage.charge(TokenUsage(10, 7, 1))
    assert stage.left() == left
    assert run.cost == stage.cost == TokenUsage(10, 7, 1)


def test_tightening_keeps_the_tighter_limit_once() -> None:
    account = Account(Account(None, TokenUsage(llm_calls=9)))
    account.tighten(TokenUsage(output_tokens=90, llm_calls=5))
    account.tighten(TokenUsage(output_tokens=80, llm_calls=7))
    assert account.left() == TokenUsage(output_tokens=80, llm_calls=5)
    call = Reservation(account.payers, Request([]), None, held_output=20)
    assert held(account) == TokenUsage(output_tokens=20)
    call.settle({"prompt_tokens": 0, "completion_tokens": 5})
    assert held(account) == NO_USAGE
    assert account.left() == TokenUsage(output_tokens=75, llm_calls=4)


def reserved(outcome: object) -> Reservation:
    assert isinstance(outcome, Reservation)
    return outcome


@pytest.mark.parametrize("limit", [None, TokenUsage(100, 100, 10)])
async def test_usage_that_cannot_be_settles_at_the_reservation(limit: TokenUsage | None) -> None:
    account = Account(None, limit)
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    call = reserved(await reserve(account.payers, Request([user("x" * 40)], max_tokens=9)))
    assert call.settle(nothing, LLMResponse("x")) == account.cost == TokenUsage(15, 9, 1)
    call = reserved(await reserve(account.payers, Request([user("x" * 40)], max_tokens=8, n=4)))
    one_of_four = {"prompt_tokens": 7, "completion_tokens": 8}
    cut = {"message": {"content": "x"}, "finish_reason": "length"}
    four = LLMResponse("x", finish_reason="length", raw={"choices": [cut] * 4})
    assert call.settle(one_of_four, four) == TokenUsage(7, 32, 1)
    assert account.caveats.unreported == 2


async def test_every_field_that_a_server_reports_is_on_the_ledger() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
        "cost": 0.25,
    }
    model = Model(lambda asked: LLMResponse("ok", usage=usage))
    cost = TokenUsage(9, 8, 1, cache_read_tokens=4, usd=Decimal("0.25"))
    assert result_of(await complete().run(model, "x")).cost == cost
    assert result_of(await consensus(n=2, stop=None).run(model, "x")).cost == cost + cost
    billed = ProviderError("half of it", cost=cost, retryable=False)
    assert error_of(await complete().run(Model(lambda asked: billed), "x")).cost == cost
    tracker = CostTracker()
    tracker.record(LLMResponse("ok", usage=usage))
    assert tracker.snapshot() == cost


async def test_a_server_that_always_reports_nothing_cannot_outspend_a_budget() -> None:
    model = Model(lambda asked: reply("ok", 0, 0))
    budget = TokenUsage(output_tokens=300)
    error = error_of(await consensus(n=20, max_tokens=100).run(model, "x", max_cost=budget))
    assert isinstance(error, BudgetExhaustedError)
    assert (model.calls, error.cost.output_tokens, error.metadata["usage_estimated"]) == (3, 300, 3)


async def test_tools_are_part_of_the_estimate() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 400}}]
    account = Account()
    call = reserved(await reserve(account.payers, Request([user("x" * 40)], max_tokens=9, tools=tools)))
    spent = call.settle(None)
    assert spent.output_tokens == 9
    assert spent.input_tokens == estimate_input(Request([user("x" * 40)]).messages) + estimate_input(tools)


@pytest.mark.parametrize(
    ("usage", "cost", "unreported"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, TokenUsage(3, 2, 1), 0),
        ({"prompt_tokens": 3}, TokenUsage(3, 9, 1), 1),
        ({"completion_tokens": 2}, TokenUsage(15, 2, 1), 1),
        (None, TokenUsage(15, 9, 1), 1),
    ],
)
@pytest.mark.parametrize("limit", [None, TokenUsage(100, 100, 10)])
async def test_one_missing_figure_settles_at_its_reservation(
    usage: object, cost: TokenUsage, unreported: int, limit: TokenUsage | None
) -> None:
    account = Account(None, limit)
    call = reserved(await reserve(account.payers, Request([user("x" * 40)], max_tokens=9)))
    assert call.settle(usage) == account.cost == cost
    assert account.caveats.unreported == unreported
    assert held(account) == NO_USAGE


@pytest.mark.parametrize("billed", [NO_USAGE, None, "junk", (3, 4)])
async def test_a_call_that_says_nothing_of_its_cost_was_free(billed: object) -> None:
    account = Account(None, TokenUsage(100, 100, 10))
    call = reserved(await reserve(account.payers, Request([user("x")], max_tokens=9)))
    assert call.abandon(billed) == account.cost == TokenUsage(0, 0, 1)
    assert (held(account), account.caveats.unreported) == (NO_USAGE, 0)


@pytest.mark.parametrize(
    ("learned", "asked"),
    [
        ([], 105),
        ([(255, 300)], 105 + 45),
        ([(255, 300), (200, 210)], 105 + 45),
        ([(255, 100)], 105),
        ([(256, 512)], 210),
        ([(256, 100)], 105),
        ([(255, 300), (1000, 1545)], 158 + 45),
    ],
)
async def test_a_run_learns_how_a_server_counts(learned: list[tuple[int, int]], asked: int) -> None:
    run = Account(None, TokenUsage(input_tokens=10_000))
    stage = Account(run)
    for estimate, counted in learned:
        run.ledger.learn_input(estimate, counted)
    request = Request([user("x" * 400)], max_tokens=9)
    assert estimate_input(request.messages) == 105
    await reserve(stage.payers, request)
    assert held(run).input_tokens == asked


async def test_an_error_inside_a_stage_has_the_cost_of_its_call() -> None:
    seen: list[ExecutionKitError] = []

    class Catching(Stage[str, str], frozen=True):
        @override
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            try:
                await context.complete([user(value)])
            except ExecutionKitError as error:
                seen.append(error)
            return PatternResult("done")

    model = Model(each(PermanentError("no", cost=TokenUsage(7, 3, 1))))
    result = result_of(await Catching().run(model, "x"))
    assert result.cost == seen[0].cost == TokenUsage(7, 3, 1)
    assert seen[0].metadata["attempts"] == 1


async def test_what_a_call_reports_counts_for_the_next() -> None:
    account = Account(None, TokenUsage(input_tokens=10_000))
    request = Request([user("x" * 400)], max_tokens=9)
    call = reserved(await reserve(account.payers, request))
    assert held(account).input_tokens == 105
    call.settle({"prompt_tokens": 215, "completion_tokens": 1})
    await reserve(account.payers, request)
    assert held(account).input_tokens == 215


async def test_a_share_of_the_output_is_at_least_a_token() -> None:
    account = Account(None, TokenUsage(output_tokens=20))
    assert reserved(await reserve(account.payers, Request([user("x")], max_tokens=9, n=15))).max_tokens == 1
    assert held(account).output_tokens == 20


async def test_nothing_is_bought_below_a_halted_account() -> None:
    run = Account()
    stage = Account(Account(run))
    request = Request([user("x")])
    run.halts += 1
    assert await reserve(stage.payers, request) == Refused("a call beside it has failed", is_halted=True)
    run.halts -= 1
    assert isinstance(await reserve(stage.payers, request), Reservation)
    context = new_context(Model(), stage, Settings(NEVER, None, None))
    run.halts += 1
    with pytest.raises(BudgetExhaustedError, match="^not sent: a call beside it has failed$"):
        await context.complete([user("x")])
    assert run.cost.llm_calls == 1


async def test_a_retry_below_a_halted_account_is_the_failure_before_it() -> None:
    run = Account()

    def fail(asked: Asked) -> object:
        run.halts += 1
        return ProviderError("down")

    context = new_context(Model(fail), run, Settings(AT_ONCE, None, None))
    with pytest.raises(ProviderError, match="^down$"):
        await context.complete([user("x")])


async def test_a_wrapper_of_the_metered_provider_passes_on_what_it_is_told() -> None:
    async def evaluate(text: str, provider: LLMProvider) -> float:
        stage = complete(temperature=0.3, max_tokens=33).using(provider)
        result_of(await stage.run(provider, text))
        return 1.0

    class Wrapper:
        def __init__(self, wrapped: LLMProvider) -> None:
            self.wrapped = wrapped

        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            return await self.wrapped.complete(messages, **kwargs)

    class Wrapped(Stage[str, str], frozen=True):
        @override
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            inner = complete(temperature=0.3, max_tokens=33).using(Wrapper(context.provider))
            return await context.run(inner, value)

    model = Model()
    assert result_of(await Wrapped().run(model, "x", max_cost=TokenUsage(llm_calls=1))).cost.llm_calls == 1
    result_of(await refine(evaluate).run(model, "x"))
    assert [(asked.temperature, asked.max_tokens) for asked in model.asked[::2]] == [(0.3, 33)] * 2


async def test_a_call_without_an_estimate_teaches_nothing() -> None:
    run = Account()
    reserved(await reserve(run.payers, Request([user("x")]))).settle(
        {"prompt_tokens": 500, "completion_tokens": 1}
    )
    stage = Account(run, TokenUsage(input_tokens=10_000))
    request = Request([user("x" * 400)], max_tokens=9)
    await reserve(stage.payers, request)
    assert held(stage).input_tokens == estimate_input(request.messages)
