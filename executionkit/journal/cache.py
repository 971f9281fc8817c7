"""`Cached`: a provider whose answers are kept in a journal, for all runs."""

from typing import Any, Final, cast

import msgspec

from executionkit.core.checks import check_number
from executionkit.core.dialect import Request, ResponseFormat, limited
from executionkit.core.journal import BadRowError, Body, as_bytes, digest_of, from_bytes, plain_request
from executionkit.journal.runs import Journal
from executionkit.journal.store import damaged
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolSpec, checked_provider
from executionkit.runtime.calls.endpoints import identity_of
from executionkit.runtime.journal.replies import Kept, as_reply, as_response, size_of

__all__ = ["Cached"]


class Cached:
    """A provider that does not pay twice for the same request, whichever run makes it.

    What is asked counts as a whole: messages, settings, tools, the form of the answer, model, address, and
    how often the run has asked the same before; so the samples of a vote stay several. A hit is no call: it
    costs nothing, no budget and no rate limit sees it, and `cached_calls` (int) in the metadata counts it.
    Providers are told apart by their `model`, `base_url` and defaults: one of your own that has none of these
    is given the answers of any other such one, so give it a `model`.

    Not kept are failures, answers longer than the journal's `most_bytes`, and those that were cut since the
    run's budget had left them less than was asked for.

    Args:
        provider: Who answers what is not kept.
        journal: Where answers are kept; it has to be open.
        temperature_at_most: Requests above that temperature are always asked; so are those that leave the
            temperature to the provider, where that does not say it (`default_temperature`).

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The temperature is negative, or not finite.

    >>> import tempfile
    >>> from executionkit import ScriptedProvider, complete
    >>> stage, answers = complete(temperature=0), ScriptedProvider(["Paris"])
    >>> with tempfile.TemporaryDirectory() as folder, Journal(f"{folder}/answers.db") as journal:
    ...     provider = Cached(answers, journal)
    ...     results = [stage.run_sync(provider, "The capital of France?").unwrap() for _ in range(2)]
    >>> [(result.value, result.cost.llm_calls) for result in results], results[1].metadata["cached_calls"]
    ([('Paris', 1), ('Paris', 0)], 1)
    """

    caches_calls: Final = True
    """That a run asks it before it reserves a call."""

    def __init__(self, provider: LLMProvider, journal: Journal, *, temperature_at_most: float = 0.0) -> None:
        self.provider: Final = checked_provider(provider)
        if not isinstance(cast("object", journal), Journal):
            raise TypeError(f"Cached keeps answers in a Journal, not in {type(journal).__name__}")
        check_number("temperature_at_most", temperature_at_most, 0)
        self.journal: Final = journal
        self.temperature_at_most: Final = temperature_at_most

    def admits(self, request: Request) -> bool:
        """Tell whether a request may be answered out of the cache."""
        temperature = request.temperature
        if temperature is None:
            temperature = getattr(self.provider, "default_temperature", None)
        return temperature is not None and temperature <= self.temperature_at_most

    async def recall(self, key: bytes) -> Kept | None:
        """Return the answer under a key, if there is one.

        Raises:
            JournalError: The journal is not open, or cannot be read.
        """
        found = await self.journal.worker.call(lambda store: store.look_up(key))
        if found is None:
            return None
        try:
            body = from_bytes(found, key)
        except (BadRowError, TypeError) as error:
            raise damaged(self.journal.path, error) from error
        if body.reply is None:
            return None
        return Kept(msgspec.structs.replace(as_response(body.reply), usage={}), body.form)

    def keep(self, key: bytes, response: LLMResponse, form: ResponseFormat, *, raw: bool) -> None:
        """Keep an answer that is not too long; `raw` says that the provider's own is read later on."""
        reply = as_reply(response, raw=raw)
        if size_of(reply) > self.journal.most_bytes:
            return
        value = as_bytes(Body(reply=reply, form=form), key)
        self.journal.worker.call_soon(lambda store: store.keep(key, value))

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Answer outside a run: the same request has the same answer.

        Raises:
            JournalError: The journal is not open, or cannot be read.
            LLMError: As the provider raises it.
        """
        most, name, options = limited(kwargs, max_tokens)
        request = Request(messages, temperature, most, tools, options=options, limit_name=name)
        key = digest_of([plain_request(request, identity_of(self.provider)), 0])
        kept = await self.recall(key) if self.admits(request) else None
        if kept is not None:
            return kept.response
        response = await self.provider.complete(
            messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
        )
        if self.admits(request):
            self.keep(key, response, "prompt", raw=False)
        return response

    def __getattr__(self, name: str) -> Any:
        """Pass on what the provider says of itself."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.provider, name)

    def __repr__(self) -> str:
        return f"Cached({self.provider!r}, {self.journal!r})"
