"""A web service with one provider for all requests: `uvicorn examples.web:app`, with fastapi and uvicorn."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from executionkit import Failure, LLMProvider, Provider, RateLimitError, Success, TokenUsage, consensus

Queue = Literal["billing", "delivery", "technical"]
vote = consensus(n=3, output_type=Queue, max_tokens=20, system="You sort support tickets.")


class Ticket(BaseModel):
    """What comes in."""

    text: str


class Sorted(BaseModel):
    """What goes out."""

    queue: Queue
    agreement: float | None
    calls: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Open the provider with the service, and close its connections with it."""
    async with Provider("http://localhost:11434/v1", "llama3.2") as provider:
        app.state.provider = provider
        yield


def opened(request: Request) -> LLMProvider:
    provider: LLMProvider = request.app.state.provider
    return provider


app = FastAPI(lifespan=lifespan)


@app.post("/tickets")
async def sort_ticket(ticket: Ticket, provider: Annotated[LLMProvider, Depends(opened)]) -> Sorted:
    """Have a ticket voted on."""
    outcome = await vote.run(provider, ticket.text, max_cost=TokenUsage(llm_calls=6), deadline=20)
    match outcome:
        case Success(result):
            return Sorted(queue=result.value, agreement=result.score, calls=result.cost.llm_calls)
        case Failure(RateLimitError() as error):
            raise HTTPException(503, "busy", headers={"Retry-After": str(round(error.retry_after))})
        case Failure(error):
            raise HTTPException(502, f"{type(error).__name__} after {error.cost.llm_calls} calls")
