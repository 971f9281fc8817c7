"""What the library costs beside the same awaits made by hand, with a provider that answers at once.

    python benchmarks/overhead.py            a small table, with the bounds beside the figures
    python benchmarks/overhead.py --json     one object: the ratios by name

Both sides of a row take turns, in processor time, and the fastest round of each counts: whatever else the
machine does can only slow a round down. The cold import is taken in fresh interpreters, in turns as well,
with the bytecode that an installed package has.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import msgspec

from executionkit import (
    LLMResponse,
    Message,
    Stage,
    Tool,
    ToolCall,
    complete,
    consensus,
    identity,
    is_success,
    react,
)
from executionkit.core.encoding import json_text
from executionkit.core.schema.validation import Rejected, parse_arguments
from executionkit.prices import Price
from executionkit.tools import tool

ROOT = Path(__file__).parent.parent
PROMPT = "What is the capital of France?"
SAMPLES, ROUNDS, STAGES, FIFTY = 100, 10, 10, 50


class Timing(NamedTuple):
    """Seconds a unit of work took at best."""

    library: float
    by_hand: float

    @property
    def ratio(self) -> float:
        return self.library / self.by_hand


class Row(NamedTuple):
    """One line of the table; one with a name is in the JSON too."""

    name: str
    what: str
    measure: Callable[[int], Timing]
    bound: float | None = None


class Instant:
    """A provider that answers at once: with a tool call for each round, then with text."""

    supports_tools = True

    def __init__(self, rounds: int = 0) -> None:
        self.answer_from = 1 + 2 * rounds  # the prompt, and a request and a result a round

    async def complete(self, messages: list[Message], **_options: Any) -> LLMResponse:
        return CALL if len(messages) < self.answer_from else ANSWER


USAGE = {"prompt_tokens": 12, "completion_tokens": 3}
ANSWER = LLMResponse("Paris", usage=USAGE)
CALL = LLMResponse("", (ToolCall("call-1", "lookup", {"city": "Paris"}),), "tool_calls", USAGE)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def lookup(city: str) -> str:
    """Return at once, as the provider does."""
    return f"{city} is a capital"


TOOL = Tool("lookup", "Tells what a city is.", SCHEMA, lookup)


async def gather_by_hand(provider: Instant) -> None:
    """Send the samples in one bare `asyncio.gather`."""
    messages = [{"role": "user", "content": PROMPT}]
    calls = [provider.complete(messages, temperature=0.9, max_tokens=4096) for _ in range(SAMPLES)]
    assert len(await asyncio.gather(*calls)) == SAMPLES


async def react_by_hand(provider: Instant) -> None:
    """Complete, call the tool, append, until there is an answer."""
    messages: list[Message] = [{"role": "user", "content": PROMPT}]
    tools = [TOOL.spec]
    while True:
        response = await provider.complete(messages, temperature=0.3, max_tokens=4096, tools=tools)
        if not response.tool_calls:
            break
        call = response.tool_calls[0]
        arguments = json.dumps(call.arguments)
        function = {"name": call.name, "arguments": arguments}
        request = {"id": call.id, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": response.content, "tool_calls": [request]})
        result = await lookup(**json.loads(arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert response.content == "Paris"


async def planned(city: str, days: int = 1, rooms: list[int] = [], note: str | None = None) -> str:  # noqa: B006
    """Plan a trip.

    Args:
        city: Where to.
        days: How long.
        rooms: Beds in each room.
        note: What else matters.
    """
    return f"{days} days in {city}"


class Planned(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `planned`, by hand."""

    city: Annotated[str, msgspec.Meta(description="Where to.")]
    days: Annotated[int, msgspec.Meta(description="How long.")] = 1
    rooms: Annotated[list[int], msgspec.Meta(description="Beds in each room.")] = []
    note: Annotated[str | None, msgspec.Meta(description="What else matters.")] = None


FIELDS: list[tuple[str, Any] | tuple[str, Any, Any]] = [
    ("city", str),
    ("days", int, 1),
    ("rooms", list[int], []),
    ("note", str | None, None),
]
PLAN = tool(planned)
ARGUMENTS = '{"city": "Paris", "days": 3, "rooms": [2, 1], "note": null}'
decode_plan = msgspec.json.Decoder(Planned).decode


class Found(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `lookup`, by hand."""

    city: str


decode_found = msgspec.json.Decoder(Found).decode
LOOKUP = tool(lookup, timeout=30)


async def loop_with_msgspec(provider: Instant) -> None:
    """Complete, decode the arguments into a struct, call the function, append, until there is an answer."""
    messages: list[Message] = [{"role": "user", "content": PROMPT}]
    tools = [LOOKUP.spec]
    while True:
        response = await provider.complete(messages, temperature=0.3, max_tokens=4096, tools=tools)
        if not response.tool_calls:
            break
        call = response.tool_calls[0]
        arguments = msgspec.json.encode(call.arguments)
        function = {"name": call.name, "arguments": arguments.decode()}
        request = {"id": call.id, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": response.content, "tool_calls": [request]})
        result = await lookup(decode_found(arguments).city)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert response.content == "Paris"


async def loop_by_hand(provider: Instant) -> None:
    """Feed each answer to the next completion."""
    text = PROMPT
    for _ in range(STAGES):
        messages = [{"role": "user", "content": text}]
        text = (await provider.complete(messages, temperature=None, max_tokens=4096)).content
    assert text == "Paris"


async def run(stage: Stage[str, str], provider: Instant) -> None:
    """Run a stage to its answer."""
    assert is_success(await stage.run(provider, PROMPT))


def chain(stages: int = STAGES) -> Stage[str, str]:
    """Return a pipeline of completions."""
    stage = identity(str)
    for _ in range(stages):
        stage >>= complete()
    return stage


def in_turns(
    units: int,
    library: Callable[[], Awaitable[None]],
    by_hand: Callable[[], Awaitable[None]],
    repeats: int,
    batch: int = 5,
) -> Timing:
    """Time both sides in turns, `batch` runs a round, in one event loop; return the best a unit."""

    async def timed(work: Callable[[], Awaitable[None]]) -> float:
        start = time.process_time()
        for _ in range(batch):
            await work()
        return (time.process_time() - start) / batch / units

    async def measure() -> Timing:
        rounds = [Timing(await timed(library), await timed(by_hand)) for _ in range(repeats)]
        return Timing(min(one.library for one in rounds), min(one.by_hand for one in rounds))

    return asyncio.run(measure())


def consensus_row(repeats: int) -> Timing:
    """A vote of many samples, a few at once, beside one bare gather."""
    provider = Instant()
    stage = consensus(SAMPLES, max_concurrency=10)
    return in_turns(SAMPLES, partial(run, stage, provider), partial(gather_by_hand, provider), repeats)


class Priced(Instant):
    """The same with a price."""

    price = Price("0.25", "2", cache_read="0.025")


def money_row(repeats: int) -> Timing:
    """A vote that counts money, beside the same one that does not."""
    stage = consensus(SAMPLES, max_concurrency=10)
    return in_turns(SAMPLES, partial(run, stage, Priced()), partial(run, stage, Instant()), repeats)


def bounds_row(repeats: int) -> Timing:
    """The bounds of a pipeline of fifty completions, beside running it."""
    stage, provider = chain(FIFTY), Priced()

    async def bounds() -> None:
        assert stage.bounds(PROMPT, provider=provider).least.llm_calls == FIFTY

    return in_turns(FIFTY, bounds, partial(run, stage, provider), repeats)


def react_row(repeats: int) -> Timing:
    """A tool loop with one call a round."""
    provider = Instant(ROUNDS)
    stage = react([TOOL], max_rounds=ROUNDS + 1)
    return in_turns(ROUNDS, partial(run, stage, provider), partial(react_by_hand, provider), repeats)


def pipe_row(repeats: int) -> Timing:
    """Completions one after the other."""
    provider = Instant()
    return in_turns(STAGES, partial(run, chain(), provider), partial(loop_by_hand, provider), repeats)


def encoding_row(repeats: int) -> Timing:
    """Arguments as JSON text, beside `json.dumps`."""
    arguments = {"city": "Paris", "days": 3}

    async def ours() -> None:
        for _ in range(100):
            json_text(arguments)

    async def theirs() -> None:
        for _ in range(100):
            json.dumps(arguments)

    return in_turns(100, ours, theirs, repeats)


def schema_row(repeats: int) -> Timing:
    """A tool made from a function, beside a struct made from known fields and its schema."""

    async def ours() -> None:
        for _ in range(5):
            assert tool(planned).parameters["required"] == ["city"]

    async def theirs() -> None:
        for _ in range(5):
            made = msgspec.defstruct("planned", FIELDS, forbid_unknown_fields=True)
            assert msgspec.json.schema(made)["$defs"]["planned"]["required"] == ["city"]

    return in_turns(5, ours, theirs, repeats)


def decode_row(repeats: int) -> Timing:
    """The arguments of a call, from text to keywords, beside a decoder made once."""

    async def ours() -> None:
        for _ in range(100):
            given = parse_arguments(ARGUMENTS)
            assert not isinstance(given, Rejected)
            PLAN.prepare(given)

    async def theirs() -> None:
        for _ in range(100):
            msgspec.structs.asdict(decode_plan(ARGUMENTS))

    return in_turns(100, ours, theirs, repeats)


def loop_row(repeats: int) -> Timing:
    """A tool loop with a tool from a function, beside the same with msgspec."""
    provider = Instant(ROUNDS)
    stage = react([LOOKUP], max_rounds=ROUNDS + 1)
    return in_turns(ROUNDS, partial(run, stage, provider), partial(loop_with_msgspec, provider), repeats)


def cold_import(statement: str, bytecode: str) -> float:
    """Return the seconds that a statement takes as the first of a fresh interpreter."""
    program = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def import_row(repeats: int, *, ours: str = "import executionkit") -> Timing:
    """Import the package, beside what it is built on."""
    theirs = "import msgspec, anyio, returns.result"
    with TemporaryDirectory() as bytecode:
        rounds = [
            Timing(cold_import(ours, bytecode), cold_import(theirs, bytecode))
            for _ in range(1 + max(5, repeats // 20))  # the first writes the bytecode
        ]
    return Timing(min(one.library for one in rounds), min(one.by_hand for one in rounds))


PATTERNS = "from executionkit import consensus, refine"
ROWS = (
    Row("consensus", f"consensus(n={SAMPLES}, max_concurrency=10), a call", consensus_row, 4.0),
    Row("money", "the same vote with prices, beside without", money_row, 1.05),
    Row("bounds", f"bounds of {FIFTY} completions, beside running them, a stage", bounds_row, 0.1),
    Row("react", f"react, {ROUNDS} rounds of one tool call, a round", react_row, 15.0),
    Row("pipe", f"a pipeline of {STAGES} completions, a stage", pipe_row, 40.0),
    Row("import", "import executionkit, cold", import_row, 2.0),
    Row("", "from executionkit import consensus, refine, cold", partial(import_row, ours=PATTERNS)),
    Row("", "a tool's arguments as JSON", encoding_row),
    Row("schema", "tool(function), beside defstruct and its schema", schema_row),
    Row("decode", "a call's arguments, beside a msgspec decoder", decode_row),
    Row("loop", f"react, {ROUNDS} rounds, beside msgspec, a round", loop_row),
)


def line(row: Row, timing: Timing) -> str:
    """Return a line of the table."""
    bound = "" if row.bound is None else f"{row.bound:8.1f} x"
    verdict = "" if row.bound is None else "ok" if timing.ratio <= row.bound else "ABOVE"
    figures = f"{timing.library * 1e6:12.1f} us {timing.by_hand * 1e6:12.1f} us {timing.ratio:8.2f} x"
    return f"{row.what:<50}{figures}{bound:>10}  {verdict}".rstrip()


def main() -> None:
    """Measure every row and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one object with the ratios")
    parser.add_argument("--repeats", type=int, default=300, help="rounds of each side (default 300)")
    options = parser.parse_args()
    rows = [row for row in ROWS if row.name or not options.json]
    if options.json:
        print(json.dumps({row.name: round(row.measure(options.repeats).ratio, 2) for row in rows}))
        return
    print(f"{'':<50}{'library':>15}{'by hand':>16}{'ratio':>11}{'at most':>9}")
    for row in rows:
        print(line(row, row.measure(options.repeats)), flush=True)


if __name__ == "__main__":
    main()
