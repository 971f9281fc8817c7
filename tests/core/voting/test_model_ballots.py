"""A vote field by field on Pydantic's models: whatever names they read and write, and whatever they leave out."""

import json
from typing import Any

import pydantic
import pytest

from executionkit import ScriptedProvider, consensus
from executionkit.core.schema.models import UnfitError, with_fields
from executionkit.core.voting.ballots import FieldBallot
from executionkit.errors import ConsensusFailedError
from tests.doubles import error_of, result_of


class Aliased(pydantic.BaseModel):
    city: str = pydantic.Field(validation_alias="City", serialization_alias="Town")
    people: int


class Hidden(pydantic.BaseModel):
    city: str
    people: int = pydantic.Field(default=0, exclude=True)


class Decoded(pydantic.BaseModel):
    city: str
    people: pydantic.Json[int]


class Marked(pydantic.BaseModel):
    city: str
    people: int

    @pydantic.field_validator("city")
    @classmethod
    def marked(cls, city: str) -> str:
        return f"{city}!"


class Written(pydantic.BaseModel):
    city: str
    people: int

    @pydantic.model_serializer
    def written(self) -> str:
        return f"{self.city}: {self.people}"


class Range(pydantic.BaseModel):
    low: int
    high: int

    @pydantic.model_validator(mode="after")
    def is_one(self) -> "Range":
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


class Closed(Range):
    high: int = pydantic.Field(serialization_alias="top", validation_alias="bottom")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "city", "people", "won"),
    [
        (Aliased, "City", str, ("Bonn", 3)),
        (Hidden, "city", int, ("Bonn", 3)),
        (Decoded, "city", str, ("Bonn", 3)),
        (Marked, "city", int, ("Bonn!", 3)),
        (Written, "city", int, ("Bonn", 3)),
    ],
)
async def test_the_fields_that_won_make_the_model(
    kind: Any, city: str, people: type, won: tuple[object, ...]
) -> None:
    said = [("Bonn", 1), ("Bonn", 3), ("Köln", 3)]
    texts = [json.dumps({city: where, "people": people(count)}) for where, count in said]
    for order in (texts, [texts[0], texts[2], texts[0], texts[2], texts[1]]):
        vote = consensus(len(order), output_type=kind, by_field=True)
        result = result_of(await vote.run(ScriptedProvider(order), "?"))
        assert (result.value.city, result.value.people) == won
        assert {*result.metadata["field_agreement"]} == {"city", "people"}
        assert max(result.metadata["field_agreement"].values()) < 1  # they were told apart


@pytest.mark.anyio
async def test_a_model_is_put_together_of_fields_that_no_sample_had_together() -> None:
    texts = ['{"City": "Bonn", "people": 1}', '{"City": "Bonn", "people": 2}', '{"City": "Ulm", "people": 3}']
    texts += ['{"City": "Rom", "people": 3}']
    vote = consensus(4, output_type=Aliased, by_field=True)
    result = result_of(await vote.run(ScriptedProvider(texts), "?"))
    assert result.value == Aliased.model_validate({"City": "Bonn", "people": 3})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "high", "why"), [(Range, "high", "low must not be above high"), (Closed, "bottom", "UnfitError")]
)
async def test_fields_that_a_validator_refuses_together_are_no_answer(kind: Any, high: str, why: str) -> None:
    said = [(5, 6), (5, 9), (1, 2), (0, 2)]
    texts = [json.dumps({"low": low, high: top}) for low, top in said]
    vote = consensus(4, output_type=kind, by_field=True)
    error = error_of(await vote.run(ScriptedProvider(texts), "?"))
    assert isinstance(error, ConsensusFailedError)
    assert why in str(error)
    assert error.cost.llm_calls == 4


def test_a_model_that_cannot_be_read_again_is_put_together_all_the_same() -> None:
    one = Hidden(city="Bonn", people=3)
    assert with_fields(one, {"city": "Ulm", "people": 4}) == Hidden(city="Ulm", people=4)
    with pytest.raises(UnfitError, match="above high"):
        with_fields(Range(low=1, high=2), {"low": 3})
    assert FieldBallot(Aliased).questions == ("city", "people")
