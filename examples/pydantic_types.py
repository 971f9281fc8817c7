"""Pydantic models as answers, with rules of their own that the model is told, and as a tool's parameters.

Needs `pip install pydantic`. Runs without a model: the provider is scripted.
"""

from decimal import Decimal

from pydantic import BaseModel, Field, model_validator

from executionkit import Failure, LLMProvider, ScriptedProvider, Success, ToolCall, react, structured, tool


class Line(BaseModel):
    """A line of an invoice."""

    text: str
    price: Decimal = Field(gt=0)


class Invoice(BaseModel):
    """An invoice whose lines come to its total."""

    lines: list[Line]
    total: Decimal

    @model_validator(mode="after")
    def adds_up(self) -> "Invoice":
        """Say what is wrong: the model gets to read it, and answers again."""
        if (found := sum(line.price for line in self.lines)) != self.total:
            raise ValueError(f"the lines come to {found}, not to {self.total}")
        return self


@tool
async def book(invoice: Invoice) -> str:
    """Book an invoice."""
    return f"booked {invoice.total} EUR"


def read(provider: LLMProvider, scan: str) -> Invoice | None:
    """Return the invoice on a page, or None where no answer will do."""
    stage = structured(Invoice, output_retries=1, max_tokens=80)
    outcome = stage.run_sync(provider, f"Read this invoice: {scan}")
    match outcome:
        case Success(result):
            print(f"{result.value!r}, {result.cost.llm_calls} calls; refused: {result.metadata['reasons']}")
            return result.value
        case Failure(error):
            print(f"{type(error).__name__}: {error}")
            return None


if __name__ == "__main__":
    wrong, right = [f'{{"lines": [{{"text": "tea", "price": 4}}], "total": {total}}}' for total in (5, 4)]
    read(ScriptedProvider([wrong, right]), "1 tea 4.00, total 4.00")
    booking = ScriptedProvider([ToolCall("1", "book", {"invoice": {"lines": [], "total": 0}}), "Booked."])
    print(react([book]).run_sync(booking, "Book it.").unwrap(), booking.requests[1].prompt)
