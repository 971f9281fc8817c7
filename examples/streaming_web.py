"""An answer as server-sent events: `pip install fastapi uvicorn`, `uvicorn examples.streaming_web:app`.

    curl -N 'http://localhost:8000/answers?question=Why+is+the+sky+blue'

When the browser goes away the run ends: its call to the model is broken off, and what it cost is logged.
"""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import anyio
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

from executionkit import Failure, LLMProvider, Provider, Success, TokenUsage, complete, prompt
from executionkit.events import Answered, Event, TextDelta, TextVoided

pipeline = complete(system="Name the topic.") >> prompt("Explain {} in three sentences.") >> complete()
SILENCE = 15.0
"""Seconds after which a comment keeps proxies from closing the connection."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Open the provider with the service, and close its connections with it."""
    async with Provider("http://localhost:11434/v1", "llama3.2") as provider:
        app.state.provider = provider
        yield


def opened(request: Request) -> LLMProvider:
    provider: LLMProvider = request.app.state.provider
    return provider


app = FastAPI(lifespan=lifespan)


class EventStream(StreamingResponse):
    """Closes the generator that it sends from at once, also when the browser goes away in the middle."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await cast("AsyncGenerator[str, None]", self.body_iterator).aclose()


@app.get("/answers")
async def answers(question: str, provider: Annotated[LLMProvider, Depends(opened)]) -> EventStream:
    """Stream the answer to a question."""
    return EventStream(shown(provider, question))


async def shown(provider: LLMProvider, question: str) -> AsyncGenerator[str, None]:
    """Yield what the page is to see. Not all there is: records hold the prompts, too."""
    run = pipeline.stream(provider, question, max_cost=TokenUsage(llm_calls=4), deadline=120)
    try:
        async with run:
            while True:
                event: Event | Answered[str] | None = None
                with anyio.move_on_after(SILENCE):  # a pull that is given up loses nothing
                    event = await anext(run, None)
                    if event is None:
                        return
                yield ": still at it\n\n" if event is None else sent(event)
    finally:
        logging.getLogger(__name__).info("cost %s", run.cost)


def sent(event: Event | Answered[str]) -> str:
    """Write an event in the form of server-sent events; nothing where the page has no use for it."""
    match event:
        case TextDelta(text=text, call=call, is_answer=True, kind="text"):
            return written("text", {"text": text, "call": call})
        case TextVoided(call=call):
            return written("voided", {"call": call})
        case Answered(Success(result)):
            return written("done", {"calls": result.cost.llm_calls})
        case Answered(Failure(error)):
            return written("failed", {"error": type(error).__name__})
        case _:
            return ""


def written(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
