"""Samples and what they weigh."""

import math

import pytest

from executionkit.core.voting.samples import ByProbability, Choice, Sample, checked_weight, read_choices


def weight(*logprobs: float) -> float:
    return ByProbability()(Sample("a", "a", logprobs=logprobs))


@pytest.mark.parametrize(
    "logprobs", [(-9999.0,), (-1e308, -1e308), (-math.inf,), (1e-7,), (0.5,), (math.nan,), ()]
)
def test_whatever_log_probabilities_are_sent_a_sample_votes(logprobs: tuple[float, ...]) -> None:
    assert checked_weight(weight(*logprobs))
    assert 2**-20 <= weight(*logprobs) <= 1


def test_one_unlikely_token_does_not_silence_a_sample() -> None:
    assert weight(*[-0.01] * 50, -9999.0) == pytest.approx(math.exp((-0.5 - 20) / 51))


def test_choices_of_another_format_are_the_first_alone() -> None:
    assert read_choices(Choice("a"), {"output": []}) == (Choice("a"),)
