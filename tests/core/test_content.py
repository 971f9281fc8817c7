"""What a model said and what it thought, in every place and cut anywhere."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.content import Said, ThoughtFilter, read_content, read_reasoning, split_thoughts


@pytest.mark.parametrize(
    ("text", "thoughts", "rest"),
    [
        ("Paris", "", "Paris"),
        ("", "", ""),
        ("<think>hm</think>Paris", "hm", "Paris"),
        ("\n <think>\nhm\n</think>\n\nParis\n", "hm", "Paris\n"),
        ("<thinking>hm</thinking> Paris", "hm", "Paris"),
        ("<THINK>hm</Think>Paris", "hm", "Paris"),
        ("[THINK]hm[/THINK]Paris", "hm", "Paris"),
        ('<think time="3">hm</think>Paris', "hm", "Paris"),
        ("<think>a</think>\n<think>b</think>\nParis", "a\nb", "Paris"),
        ("<think>a<think>b</think></think>Paris", "a<think>b", "Paris"),
        ("<think></think>Paris", "", "Paris"),
        ("<think>cut in the mid", "cut in the mid", ""),
        ("<think>score: 3", "score: 3", ""),
        ("hm\n</think>\n\nParis", "hm", "Paris"),
        ("hm. Use </think> to end it", "", "hm. Use </think> to end it"),
        ("```\n<think>\nhm\n</think>\n```", "", "```\n<think>\nhm\n</think>\n```"),
        ("Sure <think>hm</think> Paris", "", "Sure <think>hm</think> Paris"),
        ('{"tag": "<think>"}', "", '{"tag": "<think>"}'),
        ("<thinker>hm</thinker>", "", "<thinker>hm</thinker>"),
        ("<b>Paris</b>", "", "<b>Paris</b>"),
        (
            "<|channel|>analysis<|message|>hm 3<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
            "hm 3",
            "4",
        ),
        ("<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}", "", "{}"),
        ("<|channel|>analysis<|message|>hm, 3 is cut o", "hm, 3 is cut o", ""),
        ("<|channel|>", "", ""),
        ("Say <|channel|>final<|message|>", "", "Say <|channel|>final<|message|>"),
    ],
)
def test_thoughts_are_split_off(text: str, thoughts: str, rest: str) -> None:
    assert split_thoughts(text) == (thoughts, rest)


PIECES = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<thinking>", "[THINK]", "[/THINK]", "<", "a", "\n", " ", "<b>", "hm"]
    ),
    max_size=8,
).map("".join)


@given(PIECES, st.lists(st.integers(0, 60), max_size=6))
def test_pieces_give_what_the_whole_gives(text: str, cuts: list[int]) -> None:
    bounds = [0, *sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    pieces = ThoughtFilter()
    found = [pieces.feed(text[start:end]) for start, end in pairwise(bounds)] + [pieces.flush()]
    thoughts, rest = ("".join(parts) for parts in zip(*found, strict=True))
    whole = ThoughtFilter()
    at_once = [whole.feed(text), whole.flush()]
    assert (thoughts, rest) == tuple("".join(parts) for parts in zip(*at_once, strict=True))
    if "<think" in text.lstrip()[:6]:
        assert rest == split_thoughts(text)[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, Said()),
        ("a", Said("a")),
        ([], Said()),
        ([{"type": "text", "text": "a"}, {"text": "b"}, {"type": "image_url", "text": "c"}], Said("ab")),
        ([{"type": "text", "text": {"value": "a"}}], Said("a")),
        (["a", {"type": "thinking", "thinking": "hm"}, "b"], Said("ab", "hm")),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], Said("a", "hm")),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], Said("", "hm")),
        ([{"type": "reasoning", "text": "hm"}, {"type": "refusal", "refusal": "no"}], Said("", "hm", "no")),
        ([{"type": "text", "text": 5}, {"type": ["x"]}, {"type": None, "text": "a"}], Said("a")),
    ],
)
def test_a_content_is_a_text_or_parts(content: Any, said: Said) -> None:
    assert read_content(content) == said


@pytest.mark.parametrize(
    ("message", "thoughts"),
    [
        ({}, ""),
        ({"reasoning": "hm"}, "hm"),
        ({"reasoning_content": "hm", "reasoning": "hm"}, "hm"),
        ({"reasoning_content": None, "thinking": "hm"}, "hm"),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}, {"summary": ", so"}, 5]}, "hm, so"),
        ({"reasoning": {"text": "hm"}}, "hm"),
        ({"reasoning": 5, "reasoning_content": []}, ""),
    ],
)
def test_thoughts_stand_in_many_fields(message: dict[str, Any], thoughts: str) -> None:
    assert read_reasoning(message) == thoughts
