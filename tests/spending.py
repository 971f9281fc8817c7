"""Random schedules of runs with a limit in money, on servers that keep books of their own.

`tests/runtime/ledger/test_money.py` runs some hundreds of them, `just long money` twenty thousand.
"""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from typing_extensions import override

from executionkit.core.budget import bound_input, estimate_input
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, PermanentError, ProviderError, RateLimitError
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus, select
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.patterns.structured import structured
from executionkit.prices import Price, Tier
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolCall, user
from executionkit.retry import RetryConfig
from executionkit.runtime.context import Context
from executionkit.runtime.frame import Frame, Settings
from executionkit.runtime.ledger.accounts import Account
from executionkit.stage import Stage
from executionkit.tools import tool

__all__ = ["Schedule", "Spent", "bill", "play"]

Text = Stage[str, str]
_FATES = ("answer",) * 12 + ("again", "broken", "foreign", "permanent", "silent", "figure")
_AT_ONCE = RetryConfig(max_retries=2, base_delay=0.0)


def bill(price: Price, usage: TokenUsage) -> Fraction:
    """Return what a server bills, worked out by hand from the price as it was written."""
    holds: Price | Tier = price
    for tier in sorted(price.tiers, key=lambda tier: tier.above):
        holds = tier if usage.input_tokens > tier.above else holds
    read = holds.input if holds.cache_read is None else holds.cache_read
    write = holds.input if holds.cache_write is None else holds.cache_write
    plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    tokens = (
        plain * Fraction(holds.input)
        + usage.cache_read_tokens * Fraction(read)
        + usage.cache_write_tokens * Fraction(write)
        + usage.output_tokens * Fraction(holds.output)
    )
    return tokens / 1_000_000 + Fraction(price.per_call)


class Till:
    """What all servers of a schedule have billed."""

    def __init__(self) -> None:
        self.billed = Fraction(0)
        self.overshoot = Fraction(0)
        """By how much calls were dearer than their reservations: nothing where the count is a bound."""
        self.calls = 0
        self.silent = 0
        self.cancel_at = 0
        self.cancel: Callable[[], object] = lambda: None


class Server:
    """A server that honours `max_tokens`, counts a token a byte at most and bills what it answers."""

    supports_tools = True

    def __init__(self, random: Random, till: Till, *, strict: bool) -> None:
        self._random = random
        self._till = till
        self.model = f"model-{random.randrange(99)}"
        self.count_tokens = "bytes" if strict else None
        self.price = _price(random)

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        random, till = self._random, self._till
        till.calls += 1
        if till.calls == till.cancel_at:
            till.cancel()
        for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
            await checkpoint()
        fate = random.choice(_FATES)
        if fate == "again":
            raise RateLimitError("busy")
        if fate == "broken":
            raise ProviderError("down")
        if fate == "foreign":
            raise OSError("own")
        if fate == "permanent":
            raise PermanentError("no")
        usage, response = self._answer(messages, fate, **kwargs)
        cost = bill(self.price, usage)
        if fate == "figure":  # the server's own: a discount
            cost = cost * random.randrange(101) / 100
            cost = Fraction(int(cost * 10**12), 10**12)
            figure = Decimal(cost.numerator * 10**12 // cost.denominator).scaleb(-12)
            response = msgspec.structs.replace(response, usage={**response.usage, "cost": figure})
        if fate == "silent":  # what it billed is what the ledger has to take for granted
            response = msgspec.structs.replace(response, usage={})
            cost = self._worst(messages, **kwargs)
            till.silent += 1
        till.billed += cost
        till.overshoot += max(Fraction(0), cost - self._worst(messages, **kwargs))
        return response

    def _answer(
        self,
        messages: list[Message],
        fate: str,
        *,
        max_tokens: int | None = None,
        tools: list[dict[str, Any]] | None = None,
        n: int = 1,
        response_format: dict[str, Any] | None = None,
        **_others: Any,
    ) -> tuple[TokenUsage, LLMResponse]:
        random = self._random
        assert max_tokens is not None
        assert max_tokens >= 1
        given = random.randint(1, bound_input(messages, tools))
        taken = random.choice((n, max_tokens * n, random.randint(n, max_tokens * n)))  # a token an answer
        read = random.choice((0, 0, random.randint(0, given)))
        write = random.choice((0, 0, random.randint(0, given - read)))
        usage = TokenUsage(
            given,
            taken,
            1,
            cache_read_tokens=read,
            cache_write_tokens=write,
            reasoning_tokens=random.choice((0, random.randint(0, taken))),
        )
        reported = {
            "prompt_tokens": given,
            "completion_tokens": taken,
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": write},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
        if tools and random.random() < 0.6:
            call = ToolCall("a", "look", {"what": "x"})
            return usage, LLMResponse("", (call,), "tool_calls", reported)
        text = random.choice(("yes", "no", "[1, 2]", "Score: 7", "1", "well " * 30))
        raw = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}] * n} if n > 1 else None
        return usage, LLMResponse(text, usage=reported, raw=raw)

    def _worst(self, messages: list[Message], **kwargs: Any) -> Fraction:
        """Return what the ledger reserves at the least for a request."""
        tools, form = kwargs.get("tools"), kwargs.get("response_format")
        count: Callable[..., int] = bound_input if self.count_tokens else estimate_input
        parts: list[object] = [messages, tools]
        if form is not None and self.count_tokens:
            parts.append(form.get("json_schema", {}).get("schema"))
        given = count(*parts)
        output = (kwargs["max_tokens"] or 0) * kwargs.get("n", 1)
        rates: list[Price | Tier] = [self.price, *(tier for tier in self.price.tiers if given > tier.above)]
        dearest: Fraction = max(
            Fraction(a) for r in rates for a in (r.input, r.cache_read, r.cache_write) if a is not None
        )
        most: Fraction = max(Fraction(rate.output) for rate in rates)
        worst: Fraction = (given * dearest + output * most) / 1_000_000 + Fraction(self.price.per_call)
        return worst


def _price(random: Random) -> Price:
    def amount(most: int) -> Decimal:
        return Decimal(random.randrange(most * 1000)).scaleb(-3)

    tiers: tuple[Tier, ...] = ()
    if random.random() < 0.3:
        tiers = (Tier(random.choice((50, 200, 900)), amount(20), amount(60), cache_read=amount(9)),)
    return Price(
        amount(10),
        amount(40),
        cache_read=random.choice((None, amount(3))),
        cache_write=random.choice((None, amount(15))),
        tiers=tiers,
        per_call=random.choice((Decimal(0), Decimal("0.0001"))),
    )


class Capped(Stage[str, str], frozen=True):
    """A stage within a budget, which notes on leaving whether the budget held."""

    stage: Text
    limit: TokenUsage
    broken: list[Fraction]

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        from executionkit.runtime.context import tighten

        tighten(context, self.limit)
        try:
            return await self.stage.perform(value, context)
        finally:
            if (context.cost.usd or 0) > (self.limit.usd or 0):
                self.broken.append(Fraction(context.cost.usd or 0) - Fraction(self.limit.usd or 0))


async def _asking(text: str, provider: LLMProvider) -> float:
    await provider.complete([user(f"rate {text[:20]}")], max_tokens=30)
    return (len(text) % 10) / 10


async def _deaf(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    for _ in range(3):
        try:
            await provider.complete([user(prompt[:50])])
        except ExecutionKitError:
            continue
    return PatternResult("deaf")


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"{what} is there"


def _leaf(random: Random, servers: list[Server]) -> Text:
    providers = tuple(random.sample(servers, random.randint(0, len(servers))))
    together = random.random() < 0.3
    return random.choice(
        (
            lambda: complete(max_tokens=random.choice((20, 200, 4096))),
            lambda: consensus(random.randint(1, 6), max_tokens=50, providers=providers, one_request=together),
            lambda: consensus(4, output_type=list[int]).map(str),
            lambda: consensus(5, quorum=2, max_concurrency=5),
            lambda: select(3, max_tokens=60),
            lambda: refine(_asking, max_iterations=2, max_tokens=90),
            lambda: refine(max_iterations=1, max_tokens=90),
            lambda: react([look], max_rounds=3, max_tokens=120, on_limit=random.choice(("fail", "answer"))),
            lambda: structured(list[int], max_tokens=100).map(str),
            lambda: step(_deaf),
        )
    )()


def _tree(random: Random, servers: list[Server], broken: list[Fraction], depth: int = 3) -> Text:
    if not depth or random.random() < 0.3:
        return _leaf(random, servers)
    one = _tree(random, servers, broken, depth - 1)
    match random.randrange(6):
        case 0:
            return one >> _tree(random, servers, broken, depth - 1)
        case 1:
            return one | _tree(random, servers, broken, depth - 1)
        case 2:
            return (one & _tree(random, servers, broken, depth - 1)).map(str)
        case 3:
            return Capped(one, TokenUsage(usd=_limit(random)), broken)
        case 4:
            return one.within(
                TokenUsage(llm_calls=random.randint(1, 9), output_tokens=random.choice((0, 900)))
            )
        case _:
            return one.using(random.choice(servers))


def _limit(random: Random) -> Decimal:
    return Decimal(random.choice((random.randrange(1, 300), random.randrange(1, 30_000)))).scaleb(-5)


class Spent(msgspec.Struct):
    """What came of a schedule.

    Args:
        limit: The budget, in US dollars.
        billed: What the servers billed.
        counted: What the ledger counted.
        overshoot: By how much calls were dearer than their reservations.
        broken: By how much stages within a budget spent more than that.
        held: Picodollars that are still reserved; none may be.
        calls: Calls that were sent.
        silent: Those of them whose usage was not reported: the ledger counts no less than was billed.
    """

    limit: Decimal
    billed: Fraction
    counted: Fraction
    overshoot: Fraction
    broken: list[Fraction]
    held: int
    calls: int
    silent: int

    @property
    def is_sound(self) -> bool:
        """Whether the limit held, for the run and for each stage, and the ledger's books are the servers'."""
        beyond = max([self.billed - Fraction(self.limit), *self.broken])
        is_kept = beyond <= self.overshoot
        missing = self.billed - self.counted
        # The ledger rounds a call up to a picodollar; of one without usage it counts what it reserved.
        is_counted = missing <= 0 and (self.silent > 0 or -missing <= Fraction(self.calls, 10**12))
        return is_kept and is_counted and not self.held


class Schedule(msgspec.Struct, frozen=True):
    """A schedule, made of a number.

    Args:
        seed: The number.
        strict: Whether prompts are counted by a bound; otherwise they are estimated.
    """

    seed: int
    strict: bool = True


async def play(schedule: Schedule) -> Spent:
    """Run a schedule to its end."""
    random, till, broken = Random(schedule.seed), Till(), list[Fraction]()
    servers = [Server(random, till, strict=schedule.strict) for _ in range(random.randint(1, 3))]
    tree = _tree(random, servers, broken)
    limit = _limit(random)
    account = Account(None, TokenUsage(usd=limit))
    context = Context(Frame(servers[0], account, Settings(_AT_ONCE, None, None), (), None))
    if random.random() < 0.2:
        till.cancel_at = random.randint(1, 8)
    with anyio.move_on_after(30) as scope:
        till.cancel = scope.cancel
        await context.attempt(_running(tree))
    return Spent(
        limit,
        till.billed,
        Fraction(account.spent.picodollars or 0, 10**12),
        till.overshoot,
        broken,
        account.held[1],
        till.calls,
        till.silent,
    )


def _running(tree: Text) -> Callable[[Context], Awaitable[PatternResult[str]]]:
    async def run(context: Context) -> PatternResult[str]:
        return await context.run(tree, "What is the question?")

    return run
