r"""Votes: what counts as the same answer, how much a sample weighs, and when a vote may end.

Keys (`consensus(key=...)`) turn a text into what it says. A key is any function that returns something
hashable; None abstains, and so does a key that raises.

========================== =======================================================================
`fold`                     the text with white space folded; what a plain vote uses
`casefolded`               that, and upper and lower case alike
`Number`, `LastNumber`     the text as a number, the last number in it; within a tolerance
`boxed`, `FinalAnswer`     what the last `\boxed{...}` holds; that, or else the last number
`Choice`                   the letter of a multiple-choice answer
`json_value`               the JSON value in the text
========================== =======================================================================

Stopping rules (`consensus(stop=...)`): `certain()`, `beta()`, `forecast()` and `unanimous_window()`, or any
`StoppingRule`, which is asked about a `Standing`. Weights (`consensus(weigh=...)`): `ByProbability()`, or any
function of a `Sample`.
"""

from executionkit.core.voting.keys import (
    Choice,
    FinalAnswer,
    Grouping,
    Key,
    LastNumber,
    Number,
    boxed,
    casefolded,
    json_value,
)
from executionkit.core.voting.samples import ByProbability, Sample
from executionkit.core.voting.stopping import (
    Beta,
    Certain,
    Forecast,
    Standing,
    StoppingRule,
    UnanimousWindow,
    beta,
    certain,
    forecast,
    unanimous_window,
)
from executionkit.core.voting.tally import VotingStrategy, fold

__all__ = [
    "Beta",
    "ByProbability",
    "Certain",
    "Choice",
    "FinalAnswer",
    "Forecast",
    "Grouping",
    "Key",
    "LastNumber",
    "Number",
    "Sample",
    "Standing",
    "StoppingRule",
    "UnanimousWindow",
    "VotingStrategy",
    "beta",
    "boxed",
    "casefolded",
    "certain",
    "fold",
    "forecast",
    "json_value",
    "unanimous_window",
]
