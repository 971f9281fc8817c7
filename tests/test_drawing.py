"""Drawings: what stands in them, and that Mermaid takes each."""

import json
import os
import re
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executionkit.core.bounds import Bounds
from executionkit.core.usage import TokenUsage
from executionkit.errors import InvalidOutputError
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.prompt import prompt
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.structured import structured
from executionkit.plan import bounds_by_part, mermaid, tree
from executionkit.prices import Price
from executionkit.providers.scripted import ScriptedProvider
from executionkit.stage import Stage, identity
from tests.conftest import needs
from tests.doubles import Buy
from tests.pipelines import CHEAP, PIPELINES, Town, look, rule, score

DRAWN: Final = int(os.environ.get("EXECUTIONKIT_DRAWN", "60"))
MERMAID: Final = os.environ.get("EXECUTIONKIT_MERMAID", "")
"""A folder where npm may put Mermaid; `just long plan` names one, and then its own parser reads the drawings."""

BOX: Final = re.compile(r' +(subgraph )?s\d+\["[\w .,:=()\[\]{}+*/\'!?$|#;<>-]*"\]')
ARROW: Final = re.compile(r' +s\d+ (-->|-\. "[\w ]+" \.->) s\d+')
ARROWS: Final = re.compile(r'^ +(s\d+) (?:-->|-\. "[\w ]+" \.->) (s\d+)$', re.MULTILINE)

EVERYTHING: Final = (
    consensus(3, output_type=Town).map(str)
    >> (refine(score, draft=complete()).named("reply") | complete(temperature=0.5))
    >> (complete() & react([look], max_rounds=2)).map(len).within(TokenUsage(llm_calls=5))
    >> prompt("Again: {}")
    >> complete().checked(rule).using(CHEAP).or_else(structured(str), on=(InvalidOutputError,)).with_input()
)


ONE: Final = complete(max_tokens=9)
ONCE: Final = ONE.named("reply") >> ONE.checked(rule) >> (ONE >> ONE).named("both")


def test_a_pipeline_is_boxes_and_arrows() -> None:
    assert mermaid(complete() >> (consensus(3) | complete()).named("vote")) == (
        "flowchart TD\n"
        '    s1["Complete"]\n'
        '    subgraph s2["vote"]\n'
        "        direction TB\n"
        '        s3["Consensus<br/>n=3"]\n'
        '        s4["Complete"]\n'
        "    end\n"
        '    s3 -. "or else" .-> s4\n'
        "    s1 --> s2\n"
    )


def test_every_combinator_shows() -> None:
    drawn = mermaid(EVERYTHING)
    for words in (
        '["Consensus<br/>output_type=Town, n=3"]',
        'subgraph s3["reply"]',
        '["Refine: evaluator=score"]',
        '-. "draft" .->',
        '["Complete<br/>temperature=0.5"]',
        '["React<br/>tools: look, max_rounds=2"]',
        '["len"]',
        '["within 5 calls"]',
        '["checked by rule, at most 3 runs"]',
        '["using cheap"]',
        '["on InvalidOutputError"]',
        '["with the input"]',
    ):
        assert words in drawn
    assert '["the value as it is"]' in mermaid(identity(str))
    assert '["each input, 8 at once"]' in mermaid(complete().each())
    assert '["Buy<br/>mark=' in mermaid(Buy("a"))


def test_the_bounds_of_each_stage_show() -> None:
    provider = ScriptedProvider("x", price=Price(1, 2))
    pipeline = complete(max_tokens=10) >> consensus(3, max_tokens=20)
    found = bounds_by_part(pipeline, "tea", provider=provider)
    assert found[""] == pipeline.bounds("tea", provider=provider)
    assert found["stages.0"] == complete(max_tokens=10).bounds("tea", provider=provider)
    assert found["stages.1"].most.output_tokens == 4 * 3 * 20
    drawn = mermaid(pipeline, bounds=found)
    assert f'subgraph s1["{found[""]}"]' in drawn
    assert f"Complete<br/>max_tokens=10<br/>{'<br/>'.join(found['stages.0'].said)}" in drawn
    assert "up to $0.0" in str(found["stages.1"])


def test_the_bounds_of_a_stage_stand_there_once() -> None:
    drawn = mermaid(ONCE, bounds=bounds_by_part(ONCE, "tea"))
    assert '["reply"]' in drawn
    assert '["Complete<br/>max_tokens=9<br/>1 to 7 calls<br/>up to 36 output tokens"]' in drawn
    # Of what is within, these are not the bounds, or they do not stand there.
    for words in (
        '["checked by rule, at most 3 runs: 1 to 17 calls, up to 108 output tokens"]',
        '["both: 2 to 12 calls, up to 72 output tokens"]',
    ):
        assert words in drawn
    assert "subgraph" not in mermaid(complete().map(len), bounds=bounds_by_part(complete().map(len)))


def test_arrows_lead_to_frames_and_not_into_them() -> None:
    """Else they run through the titles, and frames lie over each other, which the pictures have shown."""
    for pipeline in (EVERYTHING, ONCE):
        owner = owners(mermaid(pipeline, bounds=bounds_by_part(pipeline)))
        for source, target in ARROWS.findall(mermaid(pipeline, bounds=bounds_by_part(pipeline))):
            assert owner[source] == owner[target]


def owners(drawn: str) -> dict[str, str]:
    """Return the frame that each box and frame is in."""
    frames, found = [""], dict[str, str]()
    for line in drawn.splitlines():
        if line.strip() == "end":
            frames.pop()
        elif box := BOX.fullmatch(line):
            name = line.strip().removeprefix("subgraph ").partition("[")[0]
            found[name] = frames[-1]
            if box[1]:
                frames.append(name)
    return found


def test_each_part_has_bounds_of_its_own() -> None:
    whole = bounds_by_part(EVERYTHING, "tea")
    places = {"", "stages.1.options.0.stage", "stages.2.stage.stage.right", "stages.4.stage.options.1"}
    assert places <= set(whole)
    draft = whole["stages.1.options.0.stage.draft"]
    assert (draft.least.llm_calls, draft.most.llm_calls) == (1, 7)
    assert whole["stages.2"].most.llm_calls == 5
    limited = bounds_by_part(EVERYTHING, max_cost=TokenUsage(llm_calls=2))
    assert limited[""].most.llm_calls == 2 < limited["stages.0.stage"].most.llm_calls


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (complete(max_tokens=5).bounds("x"), "1 to 7 calls, up to 20 output tokens"),
        (identity(str).bounds("x"), "0 calls"),
        (Buy("a").bounds("x"), "0 calls or more"),
        (Buy("a").within(TokenUsage(llm_calls=1)).bounds("x"), "0 to 1 call"),
        (consensus(1000).within(TokenUsage(llm_calls=1000)).bounds("x"), "1,000 calls, up to 4,096,000"),
    ],
)
def test_bounds_are_a_line(bounds: Bounds, words: str) -> None:
    assert str(bounds).startswith(words)


@needs("rich")
def test_a_tree_is_printed_by_rich() -> None:
    from rich.console import Console

    console = Console(width=200, color_system=None, record=True, file=StringIO())
    console.print(tree(EVERYTHING, bounds=bounds_by_part(EVERYTHING, "tea")))
    lines = console.export_text().splitlines()
    assert lines[0].startswith("Pipeline  (")
    assert "├── 1. Mapped then str  (3 to " in lines[1]
    assert any("draft: Complete  (1 to 7 calls, up to 16,384 output tokens)" in line for line in lines)
    console = Console(width=200, color_system=None, record=True, file=StringIO())
    console.print(tree(complete().named("[red]\x1b[31m:smile:")))
    assert console.export_text().startswith("[red] [31m:smile:")


def test_a_notebook_gets_the_drawing() -> None:
    stage: Any = complete() >> consensus(3)
    shown = stage._repr_mimebundle_(include=None, exclude=None)
    assert shown == {"text/plain": repr(stage), "text/vnd.mermaid": mermaid(stage)}


HOSTILE: Final = [
    'say "hello"',
    "end",
    "a --> b",
    "]; click s1 href 'javascript:alert(1)'",
    "<script>alert(1)</script>",
    "`**bold**`",
    "%%{init: {}}%%",
    "two\nlines\r\n\x00\x1b[31m",
    "#quot; &amp; #35;",
    "\U0001f600 \u202e \ud800 ä 漢",
    "x" * 500,
    "$$x^2$$ $$$",
    "two\\nlines",
    "[link](http://x)",
    "---\ntitle: x\n---",
    "\x1b\x00",
]


def drawn_safely(text: str) -> None:
    for line in text.splitlines()[1:]:
        assert BOX.fullmatch(line) or ARROW.fullmatch(line) or line.strip() in {"end", "direction TB"}, line


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_whatever_it_is(name: str) -> None:
    drawn = mermaid(complete(system=name).named(name) >> consensus(2).named(name))
    drawn_safely(drawn)
    # Between two of the first Mermaid sets a formula, and the other is the end of a line, as entities too.
    assert not any(words in drawn for words in ("$$", "$#36;", "#92;n"))


def test_mermaid_takes_every_drawing() -> None:
    drawn: list[str] = [mermaid(complete().named(name)) for name in HOSTILE]

    @settings(max_examples=DRAWN, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(PIPELINES, st.booleans())
    def draw(pipeline: Stage[Any, Any], with_bounds: bool) -> None:
        text = mermaid(pipeline, bounds=bounds_by_part(pipeline) if with_bounds else None)
        drawn_safely(text)
        drawn.append(text)

    draw()
    if MERMAID:
        assert what_mermaid_says(drawn) == [None] * len(drawn)
        print(f"{len(drawn)} drawings, all taken by Mermaid's own parser")


def what_mermaid_says(drawn: list[str]) -> list[str | None]:
    """Return what Mermaid's own parser says of each drawing; None where it takes it."""
    folder = Path(MERMAID)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "mermaid").exists():
        subprocess.run(["npm", "install", "--no-audit", "mermaid", "jsdom"], cwd=folder, check=True)
    said: list[str | None] = []
    for start in range(0, len(drawn), 200):
        done = subprocess.run(
            ["node", str(Path(__file__).with_name("mermaid.mjs")), str(folder)],
            input=json.dumps(drawn[start : start + 200]),
            check=True,
            capture_output=True,
            text=True,
        )
        said += json.loads(done.stdout)
    return said
