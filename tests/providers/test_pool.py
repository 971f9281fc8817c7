"""`Pool`: spreading, failing over and cooling down, under the run's own loop of attempts."""

from collections.abc import Callable
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

import anyio
import pytest
from returns.result import Failure

from executionkit import (
    Outcome,
    Pool,
    Provider,
    ProviderError,
    RateLimitError,
    TokenUsage,
    Tool,
    complete,
    consensus,
    react,
)
from executionkit.core.failover import Cooldown
from executionkit.errors import LLMError, PermanentError
from executionkit.events import Event, TextDelta, with_content
from executionkit.prices import Price, PriceTable
from executionkit.provider import LLMResponse, Message, Pieces
from executionkit.retry import RetryConfig
from tests.doubles import AT_ONCE
from tests.talking import calls, says

pytestmark = pytest.mark.anyio

DOWN = ProviderError("no connection")


class Server:
    """A member that answers with its name, or fails as `failing` says."""

    supports_tools = True

    def __init__(self, name: str, failing: Callable[[], Exception | None] = lambda: None) -> None:
        self.model = name
        self.failing = failing
        self.asked: list[list[Message]] = []

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        self.asked.append(messages)
        await anyio.lowlevel.checkpoint()
        if (error := self.failing()) is not None:
            raise error
        return says(self.model)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_requests_are_spread() -> None:
    all_are_there, under_way = anyio.Event(), list[Server]()

    class Slow(Server):
        async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
            under_way.append(self)
            if len(under_way) == 9:
                all_are_there.set()
            await all_are_there.wait()
            return await super().complete(messages, **options)

    servers = [Slow(name) for name in "abc"]
    outcome = await consensus(n=9, max_concurrency=9).run(Pool(servers), "Q")
    assert outcome.unwrap().cost == TokenUsage(90, 18, 9)
    assert [len(server.asked) for server in servers] == [3, 3, 3]


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        OSError("connection reset"),
        PermanentError("no such key", metadata={"status": 401}),
        PermanentError("no credit", metadata={"status": 402}),
        PermanentError("not yours", metadata={"status": 403}),
        RateLimitError("spent", retryable=False),
        RateLimitError("busy", retry_after=3600.0),
    ],
    ids=str,
)
async def test_another_member_answers_at_once(error: Exception) -> None:
    """Without a wait: the policy would wait for an hour."""
    broken, sound = Server("broken", lambda: error), Server("sound")
    retry = RetryConfig(max_retries=1, base_delay=3600.0, max_delay=7200.0)
    with anyio.fail_after(5):
        outcome = await complete().run(Pool([broken, sound]), "Q", retry=retry)
        assert outcome.unwrap().value == "sound"
        assert outcome.unwrap().cost.llm_calls == 2
        again = await complete().run(
            Pool([broken, sound]), "Q", max_cost=TokenUsage(llm_calls=1), retry=retry
        )
    assert isinstance(again, Failure)
    assert again.failure().cost.llm_calls == 1


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422])
async def test_a_refusal_of_the_request_comes_back(status: int) -> None:
    error = PermanentError("unknown model", metadata={"status": status})
    broken, sound = Server("broken", lambda: error), Server("sound")
    pool = Pool([broken, sound])
    outcome = await complete().run(pool, "Q")
    assert isinstance(outcome, Failure)
    assert outcome.failure().metadata["status"] == status
    assert not sound.asked
    assert (await complete().run(pool, "Q")).unwrap().value == "sound"
    assert isinstance(await complete().run(pool, "Q"), Failure)  # its turn again: it was not left alone


async def test_a_filtered_prompt_is_no_outage() -> None:
    """OpenRouter says 403 of a prompt that its moderation flagged."""
    flagged = PermanentError("403: your input was flagged by moderation", metadata={"status": 403})
    broken, sound = Server("broken", lambda: flagged), Server("sound")
    assert isinstance(await complete().run(Pool([broken, sound]), "Q"), Failure)
    assert not sound.asked


async def test_retries_bound_failing_over() -> None:
    servers = [Server(name, lambda: DOWN) for name in "abcdefgh"]
    outcome = await complete().run(Pool(servers), "Q", retry=RetryConfig(max_retries=2, base_delay=0.0))
    assert isinstance(outcome, Failure)
    assert outcome.failure().cost.llm_calls == 3
    assert outcome.failure().metadata["attempts"] == 3
    assert sum(len(server.asked) for server in servers) == 3


async def test_the_outage_drill() -> None:
    """LiteLLM#40405: a member is down for 60 s, a request comes every 4 s."""
    clock = Clock()
    dead = Server("dead", lambda: DOWN if clock.now < 60.0 else None)
    pool = Pool([dead, Server("alive")], clock=clock)
    cost = TokenUsage()
    while clock.now < 60.0:
        with anyio.fail_after(5):
            outcome = await complete().run(pool, "Q", retry=RetryConfig(base_delay=3600.0, max_delay=7200.0))
        assert outcome.unwrap().value == "alive"
        cost += outcome.unwrap().cost
        clock.now += 4.0
    assert len(dead.asked) == 1
    assert cost == TokenUsage(10 * 15, 2 * 15, 15 + len(dead.asked))
    clock.now = 200.0
    values = [(await complete().run(pool, "Q")).unwrap().value for _ in range(4)]
    assert sorted(values) == ["alive", "alive", "dead", "dead"]


async def test_the_outage_drill_under_load() -> None:
    """Ten requests at once every 4 s: the dead member is left alone but for a probe each cooldown."""
    clock = Clock()
    dead = Server("dead", lambda: DOWN if clock.now < 60.0 else None)
    pool = Pool([dead, Server("alive")], clock=clock)
    while clock.now < 60.0:
        outcome = await consensus(n=10, max_concurrency=10).run(pool, "Q", retry=RetryConfig(base_delay=0.0))
        assert outcome.unwrap().value == "alive"
        clock.now += 4.0
    assert len(dead.asked) <= 10 + 2  # those under way when it was found out, and two probes


async def test_a_probe_finds_out_for_all() -> None:
    clock = Clock()
    sick = Server("sick", lambda: DOWN if clock.now < 10.0 else None)
    pool = Pool([sick, Server("well")], cooldown=Cooldown(failures=1, seconds=30.0), clock=clock)
    assert (await complete().run(pool, "Q")).unwrap().value == "well"
    clock.now = 29.0
    await complete().run(pool, "Q")
    assert len(sick.asked) == 1
    clock.now = 31.0
    assert (await complete().run(pool, "Q")).unwrap().value == "sick"


async def test_a_pool_of_one_retries_like_its_member() -> None:
    failures = [DOWN, DOWN]
    only = Server("only", lambda: failures.pop() if failures else None)
    outcome = await complete().run(Pool([only]), "Q", retry=RetryConfig(base_delay=0.0))
    assert outcome.unwrap().cost.llm_calls == 3


class Flow:
    """A stream that breaks off after some pieces."""

    def __init__(self, texts: list[str], error: Exception | None) -> None:
        self.texts, self.error = texts, error
        self.response = says("".join(texts))
        self.cost = TokenUsage()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self.texts:
            return LLMPiece(self.texts.pop(0))
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration


class LLMPiece:
    def __init__(self, text: str) -> None:
        self.text = text


class Streaming(Server):
    def __init__(self, name: str, *texts: str, error: Exception | None = None) -> None:
        super().__init__(name)
        self.texts, self.error, self.streams = list(texts), error, 0

    def stream(self, messages: list[Message], **options: Any) -> Pieces:
        self.streams += 1
        return Flow([*self.texts], self.error)


async def streamed(pool: Pool) -> tuple[Outcome[str], list[str]]:
    texts: list[str] = []
    return await complete(stream=True).run(pool, "Q", trace=with_content(texts_of(texts))), texts


def texts_of(texts: list[str]) -> Callable[[Event], None]:
    def hear(event: Event) -> None:
        if isinstance(event, TextDelta):
            texts.append(event.text)

    return hear


async def test_a_stream_fails_over_before_its_first_text() -> None:
    pool = Pool([Streaming("a", error=DOWN), Streaming("b", "Pa", "ris")])
    outcome, texts = await streamed(pool)
    assert outcome.unwrap().value == "Paris"
    assert texts == ["Pa", "ris"]
    assert outcome.unwrap().cost.llm_calls == 2


async def test_a_stream_never_fails_over_once_text_was_handed_out() -> None:
    second = Streaming("b", "Lyon")
    outcome, texts = await streamed(Pool([Streaming("a", "Pa", error=DOWN), second]))
    assert isinstance(outcome, Failure)
    assert texts == ["Pa"]
    assert not second.streams


async def test_a_stream_that_raises_at_once_is_a_failure_of_its_member() -> None:
    asked: list[str] = []

    class Broken(Streaming):
        def stream(self, messages: list[Message], **options: Any) -> Pieces:
            asked.append(self.model)
            raise ProviderError("at once")

    outcome, texts = await streamed(Pool([Broken("a"), Streaming("b", "Paris")]))
    assert (outcome.unwrap().value, texts, asked) == ("Paris", ["Paris"], ["a"])


def with_odd(name: str, value: object) -> Exception:
    """A failure that a foreign provider has made by itself."""
    kind: Any = type("Odd", (RateLimitError,), {name: value}) if name == "retry_after" else PermanentError
    error: Exception = kind("odd")
    if name != "retry_after":
        setattr(error, name, value)
    return error


@pytest.mark.parametrize("value", ["5", None, float("nan"), float("inf"), 1e300, [5]])
async def test_an_odd_retry_after_is_none(value: object) -> None:
    errors = [with_odd("retry_after", value)]
    pool = Pool([Server("a", lambda: errors.pop() if errors else None), Server("b")])
    result = (await complete().run(pool, "Q", retry=AT_ONCE)).unwrap()
    assert (result.value, result.cost.llm_calls) == ("b", 2)


@pytest.mark.parametrize("metadata", [5, {"status": [401]}, {"status": 403, "code": {}}, [("status", 401)]])
async def test_odd_metadata_of_a_foreign_error_replace_no_failure(metadata: object) -> None:
    pool = Pool([Server("a", lambda: with_odd("metadata", metadata))])
    error = (await complete().run(pool, "Q", retry=AT_ONCE)).failure()
    assert "odd" in str(error)
    assert isinstance(error, LLMError)
    assert error.cost.llm_calls == 1


async def test_look_ups_on_a_member_may_raise() -> None:
    class Rude(Server):
        def __getattr__(self, name: str) -> Any:
            raise KeyError(name)

        @property
        def supports_tools(self) -> bool:  # type: ignore[override]
            raise KeyError("tools")

    pool = Pool([Rude("a"), Rude("b")])
    assert not hasattr(pool, "supports_tools")
    assert (await complete().run(pool, "Q")).unwrap().cost.llm_calls == 1


async def test_a_pool_streams_only_where_all_members_do() -> None:
    assert hasattr(Pool([Streaming("a")]), "stream")
    assert not hasattr(Pool([Streaming("a"), Server("b")]), "stream")


async def test_tools_go_to_whom_has_them() -> None:
    class Toolless(Server):
        supports_tools = False

    assert not hasattr(Pool([Server("a"), Toolless("b")]), "supports_tools")
    answers = iter([calls(("add", {"a": 1})), says("3")])

    class Calling(Server):
        async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
            self.asked.append(messages)
            return next(answers)

    async def add(a: int) -> str:
        return str(a + 2)

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    servers = [Calling("a"), Calling("b")]
    outcome = await react([Tool("add", "Add two.", schema, add)]).run(Pool(servers), "1 + 2?")
    assert outcome.unwrap().value == "3"
    assert [len(server.asked) for server in servers] == [1, 1]


async def test_each_member_keeps_its_own_retry_policy_and_the_run_overrules_it() -> None:
    class Patient(Server):
        retry = RetryConfig(max_retries=1, base_delay=0.0)

    failing = Patient("a", lambda: DOWN)
    outcome = await complete().run(Pool([failing]), "Q")
    assert len(failing.asked) == 2
    assert isinstance(outcome, Failure)
    await complete().run(Pool([failing]), "Q", retry=RetryConfig(max_retries=0))
    assert len(failing.asked) == 3


async def test_asked_directly_it_makes_one_attempt() -> None:
    pool = Pool([Server("a", lambda: DOWN), Server("b")])
    with pytest.raises(LLMError):
        await pool.complete([{"role": "user", "content": "Q"}])
    assert (await pool.complete([{"role": "user", "content": "Q"}])).content == "b"


async def test_it_opens_and_closes_its_members() -> None:
    providers = [Provider(f"http://127.0.0.1:{port}/v1", "m") for port in (1, 2)]
    async with Pool(providers) as pool:
        assert isinstance(await complete().run(pool, "Q", retry=RetryConfig(max_retries=0)), Failure)
    for provider in providers:
        with pytest.raises(PermanentError, match="closed"):
            await provider.complete([{"role": "user", "content": "Q"}])


async def test_who_enters_it_twice_leaves_it_twice() -> None:
    seen: list[str] = []

    class Opened(Server):
        async def __aenter__(self) -> Self:
            seen.append("in")
            return self

        async def __aexit__(self, *_: object) -> None:
            seen.append("out")

    pool = Pool([Opened("a")])
    async with pool:
        async with pool:
            pass
        assert seen == ["in", "in", "out"]
    assert seen == ["in", "in", "out", "out"]


def test_what_is_no_provider_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one provider"):
        Pool([])
    with pytest.raises(TypeError, match="a provider needs"):
        Pool([object()])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]


def test_its_repr_hides_keys() -> None:
    pool = Pool([Provider("https://api.example.com/v1", "m", api_key="sk-very-secret")])
    assert "sk-very-secret" not in repr(pool) + repr(pool.members[0])


async def test_a_pool_within_a_pool_stands_for_its_members() -> None:
    dead, well, other = Server("dead", lambda: DOWN), Server("well"), Server("other")
    pool = Pool([Pool([dead, well]), other])
    assert [member.provider for member in pool.members] == [dead, well, other]
    outcomes = [await complete().run(pool, "?", retry=RetryConfig(max_retries=1)) for _ in range(6)]
    assert not any(isinstance(outcome, Failure) for outcome in outcomes)
    assert len(dead.asked) <= 3


class Caching(Server):
    caches_prompts = True


async def test_a_pool_caches_prompts_where_all_its_members_do() -> None:
    assert Pool([Caching("a"), Caching("b")]).caches_prompts
    assert not Pool([Caching("a"), Server("b")]).caches_prompts
    alone: list[int] = []

    class Counting(Caching):
        under_way = 0

        async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
            Counting.under_way += 1
            alone.append(Counting.under_way)
            try:
                await anyio.sleep(0.01)
                return await super().complete(messages, **options)
            finally:
                Counting.under_way -= 1

    outcome = await consensus(5).run(Pool([Counting("same"), Counting("same")]), "?")
    assert not isinstance(outcome, Failure)
    assert alone == [1, 1, 2, 3, 4]  # the first goes ahead, alone


async def test_a_member_costs_what_its_provider_costs_and_is_counted_as_that_is() -> None:
    """It lost its address, so that a price for one server was not found, and a budget rested on an estimate."""

    class Paid(Server):
        base_url = "http://dear.example/v1"
        price = PriceTable({("same", "dear.example"): Price(0, 10), "same": Price(0, 1)})
        count_tokens = "bytes"

    member = Paid("same")
    stage = complete(max_tokens=9)
    asked = [(await stage.run(each, "x")).unwrap() for each in (member, Pool([member]))]
    assert asked[0].cost == asked[1].cost
    assert asked[1].cost.usd == Decimal(10) * asked[1].cost.output_tokens / 10**6
    limit = TokenUsage(input_tokens=40)  # the prompt has 47 bytes, and some ten tokens by estimate
    for provider in (member, Pool([member])):
        assert isinstance(await stage.run(provider, "x", max_cost=limit), Failure)
