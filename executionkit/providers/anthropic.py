"""`Anthropic`: Claude's models over the Messages API."""

from typing import Any, Final

from executionkit.core.dialect import Dialect, Spelled
from executionkit.provider import DEFAULT_MAX_TOKENS
from executionkit.providers.format import Format
from executionkit.providers.messages.events import MessageAssembly
from executionkit.providers.messages.request import messages_request
from executionkit.providers.messages.wire import decode_message
from executionkit.providers.remote import Remote

__all__ = ["Anthropic"]

_VERSION: Final = "2023-06-01"
_MESSAGES: Final = Format("/messages", decode_message, MessageAssembly)
_DIALECT: Final = Dialect(
    takes_n=False, takes_logprobs=False, response_formats=("json_schema",), schema_in_prompt=True
)
_COLD: Final = Dialect(
    takes_temperature=False,
    takes_n=False,
    takes_logprobs=False,
    response_formats=("json_schema",),
    schema_in_prompt=True,
)
_WITHOUT_TEMPERATURE: Final = ("claude-opus-4-7", "claude-opus-4-8", "claude-opus-5", "claude-fable")
"""Models that refuse a temperature, as public reports have it; of others it is learned."""


class Anthropic(Remote, frozen=True, kw_only=True, dict=True, weakref=True):
    """A model of Anthropic's behind `POST {base_url}/messages`.

    Messages, tools and options are given in OpenAI's format, as everywhere in this package; options of
    Anthropic's own (`thinking`, `top_k`, `output_config`, ...) are sent as they are. Reasoning goes back with
    the conversation as they came, signatures included. A `response_format` with a schema becomes a structured
    output, as far as that API can express the schema; the prompt states all of it.

    With `cache=True` the end of the tools, of the system prompt, of the first message and of the conversation
    is marked for Anthropic's cache. What is written to it costs a quarter more and what is read from it a
    tenth; prompts below its minimum (512 to 4,096 tokens, by model) are not cached, and cost what they cost.
    A vote sends its first sample ahead, so that the others read what that one has written.

    Args:
        model: The model's name, such as `"claude-sonnet-4-5"`.
        api_key: Sent as `x-api-key` if it is not empty; kept as a `Secret`.
        cache: Whether to mark prompts for the cache (default True).
        base_url: `http` or `https`, with the path before `/messages`; a query is kept.
        default_temperature: Used where a call names none; None (the default) leaves it out.
        default_max_tokens: Output tokens a call may take where it names none (default 4096).
        timeout: Seconds for one whole attempt (default 600, for a long answer takes long).

    The other settings are those of `Provider`, and so are the errors that it raises. 529 (overloaded) is a
    `ProviderError`, and retried.

    >>> Anthropic("claude-sonnet-4-5", "sk-ant-123")
    Anthropic('https://api.anthropic.com/v1', 'claude-sonnet-4-5', api_key=***)
    """

    base_url: str = "https://api.anthropic.com/v1"
    default_temperature: float | None = None
    default_max_tokens: int = DEFAULT_MAX_TOKENS
    timeout: float = 600.0
    cache: bool = True

    @property
    def caches_prompts(self) -> bool:
        """Whether a prompt is cheaper the next time: the first sample of a vote goes ahead of the others."""
        return self.cache

    @property
    def known_dialect(self) -> Dialect | None:
        """The `dialect` that was given, or what is known of the Messages API and the model."""
        if self.dialect is not None:
            return self.dialect
        return _COLD if self.model.startswith(_WITHOUT_TEMPERATURE) else _DIALECT

    @property
    def _written(self) -> Format:
        return _MESSAGES

    def _payload(self, asked: Spelled) -> dict[str, object]:
        options: dict[str, Any] = dict(asked.options)
        max_tokens = self.default_max_tokens if asked.max_tokens is None else asked.max_tokens
        return messages_request(
            self.model,
            asked.messages,
            asked.temperature,
            max_tokens,
            asked.tools,
            options,
            cache=self.cache,
        )

    def _credentials(self) -> list[tuple[str, str]]:
        version = ("anthropic-version", _VERSION)
        return [("x-api-key", self._key), version] if self.api_key else [version]
