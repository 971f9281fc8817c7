"""Each stopping rule on the embedded model, over real HTTP."""

import pytest
from returns.result import Failure, Success

from executionkit import complete, consensus
from executionkit.core.voting.keys import LastNumber
from executionkit.core.voting.stopping import StoppingRule, beta, certain, forecast, unanimous_window
from executionkit.providers.local import LocalProvider
from tests.conftest import needs

pytestmark = [pytest.mark.real, pytest.mark.timeout(180), needs("xllamacpp")]


@pytest.fixture(scope="module", autouse=True)
def _started(model: LocalProvider) -> None:
    """Start the model before a test looks at what it leaves behind."""
    complete(max_tokens=1).run_sync(model, "hello")


@pytest.mark.parametrize("rule", [None, certain(), beta(), forecast(), unanimous_window(3)], ids=repr)
def test_a_rule_on_a_real_model(model: LocalProvider, rule: StoppingRule | None) -> None:
    vote = consensus(6, stop=rule, key=LastNumber(), max_tokens=60, temperature=0.7, max_concurrency=4)
    outcome = vote.run_sync(model, "What is 2 + 3? Answer with one number.")
    match outcome:
        case Success(result):
            assert result.metadata["samples"] + result.metadata["saved"] == 6
            assert result.cost.llm_calls == result.metadata["samples"]
            assert result.score == result.metadata["agreement_ratio"]
        case Failure(error):  # a model this small may give no number at all
            assert error.metadata["abstentions"] == error.cost.llm_calls == 6


def test_a_round_in_one_request(model: LocalProvider) -> None:
    vote = consensus(3, one_request=True, max_tokens=200)
    outcome = vote.run_sync(model, "Name a colour in one word.")
    result = outcome.unwrap()
    assert result.metadata["samples"] == 3
    assert 1 <= result.cost.llm_calls <= 4
    assert result.cost.output_tokens >= 3
