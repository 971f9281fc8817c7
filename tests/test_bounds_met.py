"""Both ends of the bounds are met: each stage has a run that takes its least, and runs that take its most."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import pytest
from returns.result import Failure, Success

from executionkit import Pool
from executionkit.core.bounds import Amount
from executionkit.core.budget import bound_input
from executionkit.core.dialect import Dialect
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import PermanentError, ProviderError
from executionkit.journal import Cached, Journal
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus, select
from executionkit.patterns.prompt import prompt
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import Step, step
from executionkit.patterns.structured import structured
from executionkit.prices import Price
from executionkit.provider import LLMProvider, LLMResponse, ToolCall
from executionkit.retry import RetryConfig
from executionkit.stage import Stage, identity
from executionkit.tools import tool
from executionkit.voting import (
    ByProbability,
    Standing,
    StoppingRule,
    beta,
    certain,
    forecast,
    unanimous_window,
)
from tests.doubles import NEVER, Asked, Model
from tests.pipelines import ALL_STAGES, stages_within

pytestmark = pytest.mark.anyio

RETRIES = RetryConfig(max_retries=2, base_delay=0)
DEAR = Price(3, 15, per_call="0.0001")
FREE_INPUT = Price(0, 15, per_call="0.0001")
"""Of a prompt that nothing bounds, money is bounded only at such a price."""

TEMPERATURE = "Unsupported parameter: 'temperature'"
STREAM = "stream_options is not supported"
FORM = "response_format is not supported"
SEVERAL = "n must be 1"
LOGPROBS = "logprobs is not supported"
IDS = "tool_call_id must be nine characters long"
SYSTEMS = "only one system message is allowed"
NO_THOUGHTS = "reasoning_content is not supported"
THOUGHTS = "reasoning_content is required: it must be passed back"


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"{what} is there"


def refusal(words: str) -> PermanentError:
    return PermanentError(words, metadata={"status": 400})


ALL: Final = 0
Text: TypeAlias = Callable[[Asked], str]


def padded(asked: Asked) -> str:
    """Return a text of as many bytes as tokens are granted, another one each time."""
    return f"text {asked.number} ".ljust(limit_of(asked), "x")


def limit_of(asked: Asked) -> int:
    limit: int = asked.max_tokens or asked.options["max_completion_tokens"]
    return limit


class Worst:
    """A server that fails as often as it may, charges for all of it and as much as it may, and then answers.

    Args:
        at_once: Calls that are under way together; they are treated alike. `ALL`: however many there are.
        calls: How many there are: forms are refused by name in the last of them.
        text: What it answers.
        fails: Whether it fails for good in place of answering.
        systems: Whether it refuses several system messages.
        retries: How often it fails before.
        cuts: How many answers are cut off before they say anything.
        looks: How many calls of a tool it answers with.
        refuses: Whether it refuses whatever it may as well. A refusal comes to no tokens, and after one an
            attempt asks for less, so that the most calls and the most tokens are not those of one run.
    """

    def __init__(
        self,
        at_once: int = 1,
        text: Text = padded,
        *,
        calls: int = 1,
        fails: bool = False,
        refuses: bool = True,
        systems: bool = False,
        retries: int = RETRIES.max_retries,
        cuts: int = 0,
        looks: int = 1,
    ) -> None:
        self.retries, self.cuts, self.looks = retries, cuts, looks
        self.at_once, self.calls, self.text = at_once, calls, text
        self.fails, self.refuses, self.systems = fails, refuses, systems
        self.forgets = False
        self.under_way: Callable[[], int] = lambda: 0
        self.fates: list[str] = []
        self.once = [TEMPERATURE, STREAM, *([SYSTEMS] if systems else [])]
        self.of_calls = [IDS]
        self.has_refused_thoughts = False

    def anew(self, *, refuses: bool) -> "Worst":
        return Worst(
            self.at_once,
            self.text,
            calls=self.calls,
            fails=self.fails,
            refuses=refuses,
            systems=self.systems,
            cuts=self.cuts,
            looks=self.looks,
        )

    def __call__(self, asked: Asked) -> object:
        together = asked.options.get("n", 1) > 1
        if not self.fates:
            is_alone = together or asked.prompt.startswith("Several responses")
            at_once = 1 if is_alone else self.at_once or 1 + self.under_way()
            self.fates = [fate for fate in self.call(asked, together=together) for _ in range(at_once)]
        usage = TokenUsage(given_of(asked), limit_of(asked) * asked.options.get("n", 1), 1)
        match self.fates.pop(0):
            case "limit" if asked.max_tokens:
                return refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
            case "limit":
                return refusal("Unsupported parameter: 'max_completion_tokens'")
            case "down":
                return ProviderError("down", cost=usage)
            case "fail":
                return PermanentError("no", cost=usage, metadata={"status": 403})
            case "answer" if self.cuts and asked.tools:
                self.cuts -= 1
                counts = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
                return LLMResponse("", (), "length", counts)
            case "answer":
                calls = (ToolCall("a", "look", {"what": "x"}),) * self.looks if asked.tools else ()
                return LLMResponse(
                    self.text(asked),
                    calls,
                    "length" if self.text is rated and "<response_to_rate>" not in asked.prompt else "stop",
                    {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens},
                    extra={"reasoning_content": "x"},
                )
            case words:
                return refusal(words)

    def call(self, asked: Asked, *, together: bool) -> list[str]:
        """Return what becomes of a call, attempt by attempt."""
        ends = "fail" if self.fails or together else "answer"
        if not self.refuses:
            return [*["down"] * self.retries, ends]
        if together:  # what it refuses of any call it refuses of those after it, of which there are more
            return ["limit", "Bad Request", "down", SEVERAL, "down", ends]
        self.calls -= 1
        once, self.once = self.once, self.once if self.forgets else []
        return [*once, "limit", *self._of_history(asked), *self._optional(asked), ends]

    def _of_history(self, asked: Asked) -> list[str]:
        has_calls = any("tool_calls" in message for message in asked.messages)
        roles = [message["role"] for message in asked.messages]
        refused: list[str] = []
        if any("reasoning_content" in message for message in asked.messages):
            refused = [NO_THOUGHTS]
            self.has_refused_thoughts = True
        elif has_calls or (self.has_refused_thoughts and "assistant" in roles):
            refused = [THOUGHTS]  # they were left out, or there are none
        if has_calls:
            refused += self.of_calls
            self.of_calls = []
        return refused

    def _optional(self, asked: Asked) -> list[str]:
        """Return how the retries end, and what is refused in between of which a request can do without."""
        if asked.options.get("response_format"):
            named = [FORM, FORM]
        elif asked.options.get("logprobs"):
            named = [LOGPROBS]
        else:
            return ["down", "down"]
        return ["Bad Request", "down", *(named if self.calls == 0 else []), "down"]


def given_of(asked: Asked) -> int:
    """Return the tokens of a request's input, as many as its reservation counts."""
    form = asked.options.get("response_format", {}).get("json_schema")
    return bound_input(asked.messages, asked.tools) + (bound_input(form["schema"]) if form else 0)


def rated(asked: Asked) -> str:
    """Rate as a judge, and give drafts that are cut off."""
    return f"Score: 1{'. No.' * ('<response_to_rate>' in asked.prompt)}".ljust(limit_of(asked), "x")


def differing(asked: Asked) -> str:
    is_judge = asked.prompt.startswith("Several responses")
    return "Response 1".ljust(limit_of(asked)) if is_judge else padded(asked)


def alike(asked: Asked) -> str:
    return "y" * limit_of(asked)


def garbage(asked: Asked) -> str:
    return "["


def after_garbage(asked: Asked) -> str:
    """Say nothing that can be read, and then call a tool, in text; a summary is any text."""
    if asked.prompt.startswith("Summarise"):
        return padded(asked)
    return "{" if asked.prompt == "x" else '{"tool": "look", "arguments": {"what": "x"}}'


class Server(Model):
    """A server whose prices are known, and that counts its input just as its reservation does."""

    def __init__(self, worst: Worst, price: Price, *, has_tools: bool = True) -> None:
        super().__init__(worst, ticks=lambda asked: 3)
        self.worst = worst
        worst.under_way = lambda: self.in_flight
        self.price = price
        self.count_tokens = bound_input
        self.supports_tools = has_tools


class Row(msgspec.Struct):
    """A stage, and servers that have it take the most.

    Args:
        name: What it is called.
        make: Makes the stage, told the servers beside that of the run.
        worst: How a server behaves.
        value: What comes in.
        prompts: Whether its prompts are bounded.
        others: How many servers there are beside that of the run.
        has_tools: Whether they have tool calls of their own.
        known: Whether it is known what they take, so that nothing has to be found out one by one.
        less: By how many calls and output tokens no run takes as much; what the docs say is not met.
    """

    name: str
    make: Callable[[Sequence[Server]], Stage[Any, Any]]
    worst: Worst = msgspec.field(default_factory=Worst)
    value: Any = "x"
    prompts: bool = True
    others: int = 0
    has_tools: bool = True
    known: bool = False
    less: tuple[int, int] = (0, 0)


one, longer = complete(max_tokens=30), complete(max_tokens=40)


class AllAtOnce(msgspec.Struct, frozen=True):
    """Draws as many samples as it may, to the end."""

    def more(self, standing: Standing) -> int:
        return standing.remaining

    def bound(self, standing: Standing) -> float:
        return 1.0


class InPairs(msgspec.Struct, frozen=True):
    """Draws two samples at a time, to the end."""

    def more(self, standing: Standing) -> int:
        return min(2, standing.remaining)

    def bound(self, standing: Standing) -> float:
        return 1.0


def never(value: object) -> float:
    return 0.1


async def often(provider: LLMProvider, text: str, max_cost: TokenUsage = NO_USAGE) -> PatternResult[str]:
    """Ask until a budget ends that, in runs of their own."""
    while isinstance(await one.run(provider, text, retry=NEVER), Success):
        pass
    return PatternResult("done")


async def silent(provider: LLMProvider, text: str) -> PatternResult[str]:
    return PatternResult(text)


TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "y", "reasoning_content": "z"},
]
SAID: list[dict[str, Any]] = [{"role": "assistant", "content": "y", "reasoning_content": "z"}] * 2
CALLED: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "b", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "b", "content": "x"},
]
PLAIN_TALK: list[dict[str, Any]] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


def brief(_: str) -> str:
    return "Be brief."


def nothing(_: str) -> str:
    return ""


def looking(rounds: int, **options: Any) -> Stage[str, Any]:
    return react([look], max_rounds=rounds, max_tokens=30, **options)


def summing(rounds: int, **options: Any) -> Stage[str, Any]:
    return looking(rounds, summarise=complete(max_tokens=20), **options)


def summing_by(stage: Stage[str, str], _: object) -> Stage[str, Any]:
    return looking(2, max_history_messages=1, summarise=stage)


def in_requests(stop: StoppingRule, _: object) -> Stage[str, str]:
    return consensus(9, one_request=True, max_tokens=30, stop=stop, max_concurrency=9)


MOST: list[Row] = [
    Row("complete", lambda _: one),
    Row("with a system", lambda _: complete(max_tokens=30, system='Say "no".')),
    Row("consensus", lambda _: consensus(3, max_tokens=30), Worst(3)),
    Row("one by one", lambda _: consensus(3, max_tokens=30, max_concurrency=1)),
    Row("stopping", lambda _: consensus(3, max_tokens=30, max_concurrency=1, stop=beta())),
    Row("quorum", lambda _: consensus(3, quorum=3, max_tokens=30), Worst(3)),
    Row(
        "typed vote",
        lambda _: consensus(2, output_type=int, max_tokens=30, max_concurrency=1),
        Worst(calls=2),
    ),
    Row("at once", lambda _: consensus(3, output_type=int, max_tokens=30), Worst(3), known=True),
    Row(
        "weighed",
        lambda _: consensus(2, weigh=ByProbability(), max_tokens=30, max_concurrency=1),
        Worst(calls=2),
    ),
    Row("in one request", lambda _: consensus(4, one_request=True, max_tokens=30), Worst(4)),
    Row(
        "in rounds",
        lambda _: consensus(4, one_request=True, max_tokens=30, stop=InPairs(), max_concurrency=2),
        Worst(2),
    ),
    *[
        Row(f"stopping in rounds by {rule!r}", partial(in_requests, rule), Worst(ALL))
        for rule in (certain(), beta(), unanimous_window(4))
    ],
    Row(
        "unanimous in rounds",
        lambda _: consensus(
            4,
            one_request=True,
            max_tokens=30,
            stop=certain(),
            strategy="unanimous",
            max_concurrency=4,
        ),
        Worst(ALL, alike),
    ),
    Row(
        "in rounds of all",
        lambda _: consensus(4, one_request=True, max_tokens=30, stop=AllAtOnce(), max_concurrency=3),
        Worst(ALL),
    ),
    Row(  # how many a rule of somebody else's draws at once, nobody knows but the rule
        "in rounds of less",
        lambda _: consensus(4, one_request=True, max_tokens=30, stop=InPairs(), max_concurrency=4),
        Worst(2),
        less=(2 * 2, 2 * 3 * 30),
    ),
    Row(
        "of several in rounds",
        lambda them: consensus(
            7, providers=them, one_request=True, max_tokens=30, stop=certain(), max_concurrency=9
        ),
        Worst(ALL),
        others=2,
    ),
    Row("of several", lambda them: consensus(5, providers=them, max_tokens=30), Worst(1), others=5),
    Row(
        "of several in one request",
        lambda them: consensus(4, providers=them, one_request=True, max_tokens=30),
        Worst(2),
        others=2,
    ),
    Row("select", lambda _: select(3, max_tokens=30, max_concurrency=1, system="No."), Worst(1, differing)),
    Row("select in one request", lambda _: select(3, max_tokens=30, one_request=True), Worst(3, differing)),
    Row("refine", lambda _: refine(never, max_iterations=2, patience=9, max_tokens=30), prompts=False),
    Row("judged", lambda _: refine(max_iterations=1, patience=9, max_tokens=30), Worst(1, rated)),
    Row("judged again", lambda _: refine(max_iterations=3, patience=9, max_tokens=30), Worst(1, rated)),
    Row(
        "typed refine",
        lambda _: refine(never, output_type=int, max_iterations=1, output_retries=0, max_tokens=30),
        Worst(1, lambda asked: "1", calls=2),
        prompts=False,
    ),
    Row(
        "own drafts",
        lambda _: refine(
            never, draft=one, improve=prompt("Not {value}") >> one, max_iterations=2, patience=9
        ),
        prompts=False,
    ),
    Row("react", lambda _: react([look], max_rounds=3, max_tokens=30), prompts=False),
    Row(
        "react of talk",
        lambda _: react([look], max_rounds=3, max_tokens=30, transcript=TALK),
        Worst(systems=True),
        prompts=False,
    ),
    Row(
        "react in text",
        lambda _: react([look], max_rounds=3, max_tokens=30, output_type=int, system="Be brief."),
        Worst(1, garbage, calls=3, systems=True),
        prompts=False,
        has_tools=False,
    ),
    Row(
        "last words",
        lambda _: react([look], max_rounds=2, max_tokens=30, on_limit="answer"),
        prompts=False,
    ),
    Row(
        "last words in no room",
        lambda _: looking(2, max_history_messages=3, on_limit="answer"),
        prompts=False,
    ),
    Row("last words in room", lambda _: looking(2, max_history_messages=4, on_limit="answer"), prompts=False),
    Row(
        "one round in no room", lambda _: looking(1, max_history_messages=1, on_limit="answer"), prompts=False
    ),
    # The first reply goes into a summary, so that nobody can refuse its thoughts in the second call.
    Row("summaries", lambda _: summing(3, max_history_messages=3), Worst(cuts=1), prompts=False),
    Row("one summary", lambda _: summing(2, max_history_messages=1), Worst(cuts=1), prompts=False),
    Row(
        "summaries in text",
        lambda _: summing(3, max_history_messages=1),
        Worst(1, after_garbage, calls=5),
        prompts=False,
        has_tools=False,
    ),
    # Or it is not, where that takes more calls than a summary does.
    Row("summaries without a call", partial(summing_by, prompt("Briefly: {}")), prompts=False),
    # The first reply fits with what it was told, and stays with its results.
    Row("a first reply in room", lambda _: summing(3, max_history_messages=4), prompts=False),
    Row("summaries in room", lambda _: summing(3, max_history_messages=6), Worst(looks=2), prompts=False),
    Row(
        "last words and a summary",
        lambda _: summing(2, max_history_messages=5, on_limit="answer"),
        prompts=False,
    ),
    Row(
        "last words or a summary",
        lambda _: summing(1, max_history_messages=9, on_limit="answer"),
        Worst(looks=9),
        prompts=False,
    ),
    Row(
        "last words in no room for a summary",
        lambda _: summing(1, max_history_messages=3, on_limit="answer"),
        prompts=False,
    ),
    # Of what was said before, a half is summarised before the first call, and a half before the second.
    Row("summaries of talk", lambda _: summing(3, max_history_messages=3, transcript=SAID), prompts=False),
    Row(
        "a summary of all talk",
        lambda _: summing(3, max_history_messages=2, transcript=SAID),
        Worst(cuts=1),
        prompts=False,
    ),
    Row("talk that fits", lambda _: summing(2, max_history_messages=4, transcript=SAID), prompts=False),
    Row(
        "talk that may not fit",
        lambda _: summing(3, max_history_messages=4, transcript=SAID, system=brief),
        prompts=False,
    ),
    Row("talk of calls", lambda _: looking(2, transcript=CALLED), prompts=False),
    Row("talk without thoughts", lambda _: looking(2, transcript=PLAIN_TALK), prompts=False),
    Row(
        "structured",
        lambda _: structured(int, output_retries=2, max_tokens=30),
        Worst(1, garbage, calls=3),
        prompts=False,
    ),
    Row("structured once", lambda _: structured(int, output_retries=0, max_tokens=30), Worst(1, garbage)),
    Row(
        "structured with a system",
        lambda _: structured(int, output_retries=0, max_tokens=30, system='Say "no".'),
        Worst(1, garbage),
    ),
    Row("chain", lambda _: one >> longer >> one),
    Row("both", lambda _: one & one, Worst(2)),
    Row("both of several", lambda them: one & one.using(them[0]), others=1),
    Row("either", lambda _: one | longer, Worst(fails=True)),
    Row("or else", lambda _: one.or_else(longer, on=(PermanentError,)), Worst(fails=True)),
    Row("map", lambda _: one.map(len)),
    Row("named", lambda _: one.named("one")),
    Row("with input", lambda _: one.with_input() >> prompt("{1} of {0}") >> one),
    Row("checked", lambda _: one.checked(lambda text: "no", output_retries=1), prompts=False),
    Row("prompt", lambda _: prompt('Say "{}" and {{{}}}:') >> one),
    Row("prompt of a value", lambda _: prompt("Say {}") >> one, value={"a": ['"', "ü"]}),
    Row("each", lambda _: one.each(max_concurrency=2), Worst(2), ["x", 'yy "y"']),
    Row("one after the other", lambda _: one.each(max_concurrency=1), value=["x", "yyy"]),
    Row("using", lambda them: one.using(them[0]), others=1),
    Row("within", lambda _: one.within(TokenUsage(llm_calls=99))),
]


def servers_of(row: Row, price: Price, *, refuses: bool) -> list[Server]:
    servers = [
        Server(row.worst.anew(refuses=refuses), price, has_tools=row.has_tools) for _ in range(row.others + 1)
    ]
    for server in servers if row.known else ():
        server.known_dialect = Dialect()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return servers


@pytest.mark.parametrize("row", MOST, ids=[row.name for row in MOST])
async def test_the_most_calls_are_made(row: Row) -> None:
    server, *others = servers_of(row, DEAR, refuses=True)
    stage = row.make(others)
    bounds = stage.bounds(row.value, provider=server, retry=RETRIES)
    outcome = await stage.run(server, row.value, retry=RETRIES)
    cost = outcome.unwrap().cost if isinstance(outcome, Success) else outcome.failure().cost
    assert cost.llm_calls == sum(each.calls for each in (server, *others))
    assert cost.llm_calls == bounds.most.llm_calls - row.less[0]
    if row.worst.at_once == 1 and not row.others:
        assert bounds.depth == bounds.most.llm_calls


@pytest.mark.parametrize("row", MOST, ids=[row.name for row in MOST])
async def test_the_most_tokens_and_money_are_taken(row: Row) -> None:
    price = DEAR if row.prompts else FREE_INPUT
    server, *others = servers_of(row, price, refuses=False)
    stage = row.make(others)
    bounds = stage.bounds(row.value, provider=server, retry=RETRIES)
    outcome = await stage.run(server, row.value, retry=RETRIES)
    cost = outcome.unwrap().cost if isinstance(outcome, Success) else outcome.failure().cost
    assert cost.output_tokens == bounds.most.output_tokens - row.less[1]
    assert cost.usd == bounds.most.usd - row.less[1] * Decimal(15) / 10**6
    if row.prompts:
        assert (cost.input_tokens, bounds.unknown) == (bounds.most.input_tokens, ())
    else:
        dear = stage.bounds(row.value, provider=servers_of(row, DEAR, refuses=False)[0], retry=RETRIES)
        assert dear.most.usd == bounds.most.input_tokens == Decimal("Infinity")
        assert bounds.unknown


class Equal(Server):
    """A server that is equal to every other one: what one of them refuses, a run knows of all."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal) and self.worst is other.worst

    def __hash__(self) -> int:
        return hash(id(self.worst))


class Unhashable(Server):
    """A server of which nothing can be kept beyond a run."""

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize("kind", [Server, Equal, Unhashable])
async def test_equal_providers_learn_together(kind: type[Server]) -> None:
    worst = Worst()
    both = kind(worst, DEAR), kind(worst, DEAR)
    stage = one.using(both[0]) >> one.using(both[1])
    bounds = stage.bounds("x", provider=both[0], retry=RETRIES)
    calls = 2 * (3 + 1)  # each with its attempts, and the name of the output limit
    if kind is not Equal:
        worst.forgets = True
    cost = (await stage.run(both[0], "x", retry=RETRIES)).unwrap().cost
    assert cost.llm_calls == bounds.most.llm_calls == calls + (2 if kind is Equal else 4)


async def test_a_cache_learns_with_whom_it_asks(tmp_path: Path) -> None:
    server = Server(Worst(), DEAR)
    async with Journal(tmp_path / "answers.db") as journal:
        stage = one >> one.using(Cached(server, journal))
        bounds = stage.bounds("x", provider=server, retry=RETRIES)
        cost = (await stage.run(server, "x", retry=RETRIES)).unwrap().cost
    assert cost.llm_calls == bounds.most.llm_calls == 2 * (3 + 1) + 2


async def test_the_most_is_met_by_a_pool_whose_members_change_their_minds() -> None:
    members = [Server(Worst(), DEAR) for _ in range(2)]
    lessons = [TEMPERATURE, STREAM, "limit"]
    for member, fates in zip(
        members, ([*lessons, "down", "limit", "answer"], [*lessons, "down"]), strict=True
    ):
        member.worst.fates = fates
    pool: Any = Pool(members)
    bounds = one.bounds("x", provider=pool, retry=RETRIES)
    cost = (await one.run(pool, "x", retry=RETRIES)).unwrap().cost
    assert (
        cost.llm_calls == bounds.most.llm_calls == 2 * 2 + 3 + 3
    )  # what is learned, attempts, names of the limit


@pytest.mark.parametrize("field", ["llm_calls", "output_tokens", "usd"])
async def test_a_budget_is_met(field: str) -> None:
    a_call = one.bounds("x", provider=Server(Worst(), DEAR), retry=NEVER).most
    shorter = complete(max_tokens=16).bounds("x", provider=Server(Worst(), DEAR), retry=NEVER).most
    most = {
        "llm_calls": TokenUsage(llm_calls=4),
        "output_tokens": TokenUsage(output_tokens=3 * 30 + 16),
        "usd": TokenUsage(usd=3 * a_call.usd + shorter.usd),
    }[field]
    for stage in (consensus(9, max_tokens=30).within(most), step(often, max_cost=most)):
        server = Server(Worst(refuses=False, retries=0), DEAR)
        bounds = stage.bounds("x", provider=server, retry=NEVER)
        outcome = await stage.run(server, "x", retry=NEVER)
        cost = outcome.unwrap().cost if isinstance(outcome, Success) else outcome.failure().cost
        assert getattr(cost, field) == getattr(bounds.most, field) == getattr(most, field)


class Least(msgspec.Struct):
    """A stage, and the least that a run of it takes.

    Args:
        name: What it is called.
        stage: The stage.
        calls: Calls at the least.
        says: Which of its calls have to be answered by a text, in a run of all the calls that it may make.
        value: What comes in.
    """

    name: str
    stage: Stage[Any, Any]
    calls: int
    says: tuple[int, ...] = ()
    value: Any = "x"


LEAST: list[Least] = [
    Least("complete", complete(), 1),
    Least("consensus", consensus(5), 5, (1,)),
    Least("unanimous", consensus(3, strategy="unanimous"), 3, (3,)),
    Least("certain", consensus(5, stop=certain()), 3, (1,)),
    Least("beta", consensus(40, stop=beta(), max_concurrency=40), 4, (1,)),
    Least("window", consensus(40, stop=unanimous_window(3), max_concurrency=40), 3, (1,)),
    Least("quorum", consensus(9, quorum=2), 2, (1,)),
    Least("typed vote", consensus(3, output_type=int), 3, (1,)),
    Least("in one request", consensus(4, one_request=True), 1, (1,)),
    Least(
        "certain in requests of three",
        consensus(9, stop=certain(), one_request=True, max_concurrency=3),
        2,
        (1,),
    ),
    Least("select", select(4), 4, (1,)),
    Least("select in one request", select(4, one_request=True), 1, (1,)),
    Least("judged", refine(), 2, (2,)),
    Least("refine", refine(lambda text: 1.0), 1),
    Least("typed refine", refine(lambda value: 1.0, output_type=int), 1, (1,)),
    Least("own draft", refine(lambda text: 1.0, draft=consensus(2)), 2, (1,)),
    Least("judged, and then a call", refine() >> complete(), 3, (1, 2)),
    Least("react", react([look]), 1),
    Least("typed react", react([look], output_type=int), 1, (1,)),
    Least("last words", react([look], on_limit="answer"), 1),
    Least("a summary of all talk", summing(3, max_history_messages=2, transcript=SAID), 2),
    Least(
        "talk that may fit",
        summing(3, max_history_messages=4, transcript=SAID, system=nothing),
        1,
    ),
    Least("structured", structured(int), 1, (1,)),
    Least("prompt", prompt("Say {}"), 0),
    Least("identity", identity(str), 0),
    Least("step", step(silent), 0),
    Least("chain", complete() >> consensus(2), 3, (1, 2)),
    Least("chain with words of its own", complete() >> prompt("Not {}") >> complete(), 2),
    Least("chain with words within", complete() >> (prompt("Say {}") >> complete()).named("second"), 2),
    Least("chain of a chain", (complete() >> complete()).named("first") >> complete(), 3, (1, 2)),
    Least("chain with both", complete() >> (prompt("Say {}") & complete()), 2, (1,)),
    Least("chain with either", complete() >> (prompt("Say {}") | complete()), 1),
    Least("chain of what is checked", complete().checked(lambda text: None) >> complete(), 2, (1,)),
    Least("both", complete() & consensus(2), 3, (3,)),
    Least("either", complete() | consensus(2), 1),
    Least("map", complete().map(len), 1),
    Least("map, and then a call", complete().map(len).map(str) >> complete(), 2),
    Least("named", complete().named("one"), 1),
    Least("with input", complete().with_input(), 1),
    Least("checked", complete().checked(lambda text: None), 1),
    Least("within", consensus(5).within(TokenUsage(llm_calls=9)), 5, (1,)),
    Least("using", complete().using(Model(lambda asked: terse(asked, says_something=False))), 1),
    Least("each", complete().each(on_error="fail"), 2, value=["x", "y"]),
    Least("each of a vote", consensus(1).each(on_error="fail"), 2, (1, 2), value=["x", "y"]),
]


def terse(asked: Asked, *, says_something: bool) -> LLMResponse:
    """Answer as well as one can, or with nothing, and take nothing for it: that is not believed of a text."""
    text = "1" if asked.options.get("response_format") or asked.tools else "Score: 10"
    text = text if says_something else ""
    choices = [{"message": {"content": each}, "finish_reason": "stop"} for each in (text, "")]
    choices += choices[1:] * (asked.options.get("n", 1) - 2)
    usage = {"prompt_tokens": 0, "completion_tokens": int(says_something), "cost": 0}
    return LLMResponse(text, usage=usage, raw={"choices": choices})


def saying(calls: Sequence[int]) -> Callable[[Asked], LLMResponse]:
    return lambda asked: terse(asked, says_something=asked.number in calls)


def wanted(asked: Asked) -> LLMResponse:
    """Answer as well as one can, all answers alike."""
    text = "1" if asked.options.get("response_format") or asked.tools else "Score: 10"
    answers = asked.options.get("n", 1)
    choices = [{"message": {"content": text}, "finish_reason": "stop"}] * answers
    usage = {"prompt_tokens": 0, "completion_tokens": answers, "cost": 0}
    return LLMResponse(text, usage=usage, raw={"choices": choices})


@pytest.mark.parametrize("row", LEAST, ids=[row.name for row in LEAST])
async def test_the_least_is_met_by_every_stage(row: Least) -> None:
    bounds = row.stage.bounds(row.value)
    assert bounds.least == Amount(row.calls, 0, len(row.says), Decimal(0))
    limit = TokenUsage(llm_calls=row.calls) if row.calls else None  # a quorum does with what it has
    cost = (await row.stage.run(Model(wanted), row.value, max_cost=limit)).unwrap().cost
    assert (cost.llm_calls, cost.input_tokens, cost.usd or 0) == (row.calls, 0, 0)
    model = Model(saying(row.says))
    cost = (await row.stage.run(model, row.value)).unwrap().cost
    assert cost.output_tokens == bounds.least.output_tokens


@pytest.mark.parametrize("row", LEAST, ids=[row.name for row in LEAST])
async def test_no_run_that_answers_says_less(row: Least) -> None:
    for silent in range(len(row.says)):
        model = Model(saying(row.says[:silent] + row.says[silent + 1 :]))
        assert isinstance(await row.stage.run(model, row.value, retry=NEVER), Failure)


async def test_a_text_that_is_said_to_take_nothing_is_not_believed() -> None:
    bounds = consensus(1).bounds("x")
    model = Model(
        lambda asked: msgspec.structs.replace(
            terse(asked, says_something=True), usage={"completion_tokens": 0}
        )
    )
    cost = (await consensus(1, max_tokens=9).run(model, "x")).unwrap().cost
    assert (bounds.least.output_tokens, cost.output_tokens) == (1, 9)


async def test_a_summary_of_one_call_is_less_than_what_it_keeps_from_being_refused() -> None:
    stage = summing_by(one.within(TokenUsage(llm_calls=1)), None)
    server = Server(Worst(), DEAR)
    bounds = stage.bounds("x", provider=server, retry=RETRIES)
    await stage.run(server, "x", retry=RETRIES)
    assert server.calls == bounds.most.llm_calls
    assert bounds.most.output_tokens == (2 * 3 + 1) * 30


async def test_a_quorum_may_be_missing_all_at_once() -> None:
    """The first round is of one sample, which fails: then no less than the quorum is asked for at once."""
    stage = consensus(6, stop=forecast(0.2), quorum=4, one_request=True, max_tokens=30, max_concurrency=6)
    asked_for: list[int] = []

    def answer(asked: Asked) -> object:
        answers = asked.options.get("n", 1)
        asked_for.append(answers)
        cost = TokenUsage(1, answers * limit_of(asked), 1)
        if asked.number == 1 or (answers > 1 and asked_for.count(answers) > 2):
            return PermanentError("no", cost=cost, metadata={"status": 403})
        if answers > 1 or asked.number % 3:
            return ProviderError("down", cost=cost)
        return LLMResponse(f"text {asked.number}", usage={"prompt_tokens": 1, "completion_tokens": 30})

    bounds = stage.bounds("x", retry=RETRIES)
    outcome = await stage.run(Model(answer), "x", retry=RETRIES)
    cost = outcome.unwrap().cost if isinstance(outcome, Success) else outcome.failure().cost
    assert (max(asked_for), bounds.most.output_tokens) == (4, (6 + 4) * 3 * 30)
    assert cost.output_tokens <= bounds.most.output_tokens


def test_a_round_may_begin_with_any_provider() -> None:
    cheap, dear = Server(Worst(), Price(0, 1)), Server(Worst(), Price(0, 100))
    most = [
        consensus(6, providers=them, stop=AllAtOnce(), one_request=True, max_tokens=30, max_concurrency=3)
        .bounds("x", provider=cheap, retry=NEVER)
        .most.usd
        for them in ([cheap, dear], [dear, cheap])
    ]
    assert most[0] == most[1] == (3 * 1 + 3 * 100 + 2 * 100) * Decimal(30) / 10**6


async def test_a_quorum_may_come_in_one_request_of_several() -> None:
    def answer(asked: Asked) -> LLMResponse:
        usage = {"prompt_tokens": given_of(asked), "completion_tokens": 3}
        return msgspec.structs.replace(wanted(asked), usage=usage)

    models = [Model(answer) for _ in range(3)]
    for model in models:
        model.count_tokens = bound_input  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    stage = consensus(9, quorum=3, providers=models, one_request=True)
    limit = TokenUsage(input_tokens=bound_input([{"role": "user", "content": "x"}]))  # for one under way
    cost = (await stage.run(models[0], "x", max_cost=limit)).unwrap().cost
    assert cost.llm_calls == stage.bounds("x", provider=models[0], max_cost=limit).least.llm_calls == 1
    more = consensus(9, quorum=4, providers=models, one_request=True)
    assert more.bounds("x", provider=models[0], max_cost=limit).least.llm_calls == 2


async def test_many_inputs_may_all_fail_at_no_call() -> None:
    stage = complete().each()
    assert stage.bounds(["x", "y"]).least.llm_calls == 0
    spent = (await stage.run(Model(wanted), [3, 4])).unwrap()  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert (len(spent.value), spent.cost.llm_calls) == (2, 0)


async def test_what_is_kept_takes_nothing(tmp_path: Path) -> None:
    stage = complete(temperature=0) & consensus(2, temperature=0, max_tokens=30)
    async with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(Server(Worst(refuses=False, retries=0), DEAR), journal)
        bounds = stage.bounds("x", provider=provider)
        costs = [(await stage.run(provider, "x")).unwrap().cost.llm_calls for _ in range(2)]
    assert costs[1] == bounds.least.llm_calls == 0
    assert costs[0] > 0


def test_no_stage_is_left_out() -> None:
    rows = [row.make([Server(Worst(), DEAR)] * row.others) for row in MOST]
    assert set[type[Any]]().union(*map(stages_within, rows)) == ALL_STAGES - {Step}  # which meets a budget
    assert set[type[Any]]().union(*[stages_within(row.stage) for row in LEAST]) == ALL_STAGES
