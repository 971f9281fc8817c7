"""What is known of public servers before they are asked: how each wants requests said. Pure.

From their documentation and from public reports, none of it tried on a live server; `docs/servers.md` says
what is from where. The first row that matches holds; what it says wrong, a refusal corrects.
"""

import ipaddress
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import msgspec

from executionkit.core.dialect import Dialect

__all__ = ["SERVERS", "Server", "dialect_for", "server_for", "servers_table"]


class Server(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """One row.

    Args:
        name: Whose server it is.
        hosts: Its hosts; `".example.com"` stands for all below that, `":1234"` for that port of this machine.
        models: What the names of the models begin with that the row is about; empty for all.
        dialect: How it wants requests said.
        key_header: The header that its key goes in, in place of a bearer token.
    """

    name: str
    hosts: tuple[str, ...]
    models: tuple[str, ...] = ()
    dialect: Dialect = Dialect()
    key_header: str = ""


_REASONING: Final = Dialect(
    output_limit="max_completion_tokens",
    takes_temperature=False,
    takes_logprobs=False,
    schema_in_prompt=False,
)
_OPENAI: Final = ("gpt-5", "gpt-6", "o1", "o3", "o4")
_OPENROUTER: Final = Dialect(takes_n=False, reasoning_field="reasoning")

SERVERS: Final = (
    Server("OpenAI: o-series, gpt-5 and later", ("api.openai.com",), _OPENAI, _REASONING),
    Server(
        "OpenAI: other models",
        ("api.openai.com",),
        dialect=Dialect(output_limit="max_completion_tokens", schema_in_prompt=False),
    ),
    Server(
        "Azure OpenAI",
        (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
        dialect=Dialect(schema_in_prompt=False),
        key_header="api-key",
    ),
    Server(
        "Groq: gpt-oss",
        ("api.groq.com",),
        ("openai/gpt-oss",),
        Dialect(takes_n=False, takes_logprobs=False, reasoning_field="reasoning"),
    ),
    Server(
        "Groq: other models",
        ("api.groq.com",),
        dialect=Dialect(
            takes_n=False, takes_logprobs=False, response_formats=("json_object",), echo_reasoning=False
        ),
    ),
    Server(
        "DeepSeek: chat",
        ("api.deepseek.com",),
        ("deepseek-chat",),
        Dialect(takes_n=False, response_formats=("json_object",)),
    ),
    Server(
        "DeepSeek: models that reason",
        ("api.deepseek.com",),
        dialect=Dialect(
            takes_n=False, takes_logprobs=False, response_formats=("json_object",), forced_tools=False
        ),
    ),
    Server(
        "Mistral",
        ("api.mistral.ai",),
        dialect=Dialect(takes_logprobs=False, tool_ids="nine", stream_usage=False, echo_reasoning=False),
    ),
    Server(
        "OpenRouter: GLM",
        ("openrouter.ai",),
        ("z-ai/",),
        msgspec.structs.replace(_OPENROUTER, forced_tools=False),
    ),
    Server("OpenRouter: other models", ("openrouter.ai",), dialect=_OPENROUTER),
    Server("Together", ("api.together.xyz", "api.together.ai"), dialect=Dialect(forced_tools=False)),
    Server("Fireworks", ("api.fireworks.ai",), dialect=Dialect(stream_usage=False)),
    Server("Cerebras", ("api.cerebras.ai",), dialect=Dialect(takes_n=False, reasoning_field="reasoning")),
    Server(
        "Gemini",
        ("generativelanguage.googleapis.com",),
        dialect=Dialect(takes_n=False, takes_logprobs=False),
    ),
    Server(
        "Moonshot",
        ("api.moonshot.ai", "api.moonshot.cn"),
        dialect=Dialect(
            takes_temperature=False,
            takes_logprobs=False,
            response_formats=("json_object",),
            forced_tools=False,
        ),
    ),
    Server(
        "Z.ai",
        ("api.z.ai", "open.bigmodel.cn"),
        dialect=Dialect(
            takes_n=False, takes_logprobs=False, response_formats=("json_object",), forced_tools=False
        ),
    ),
    Server(
        "Anthropic, compatible endpoint",
        ("api.anthropic.com",),
        dialect=Dialect(takes_n=False, takes_logprobs=False, response_formats=()),
    ),
    Server(
        "Ollama",
        (":11434", "ollama.com"),
        dialect=Dialect(takes_n=False, takes_logprobs=False, forced_tools=False, reasoning_field="reasoning"),
    ),
    Server("vLLM", (":8000",), dialect=Dialect(one_system_message=True, reasoning_field="reasoning")),
    Server("llama.cpp", (":8080",)),
    Server(
        "LM Studio",
        (":1234",),
        dialect=Dialect(takes_n=False, takes_logprobs=False, response_formats=("json_schema",)),
    ),
    Server("SGLang", (":30000",)),
)
"""The table, most particular rows first."""


@lru_cache(maxsize=256)
def server_for(base_url: str, model: str) -> Server | None:
    """Return the row that a base URL and a model are in; None where the server is not known.

    >>> server_for("https://api.openai.com/v1", "gpt-5-mini").name
    'OpenAI: o-series, gpt-5 and later'
    """
    try:
        parts = urlsplit(base_url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    name = model.lower()
    for row in SERVERS:
        is_its_model = not row.models or name.startswith(row.models)
        if is_its_model and any(_is_at(known, host, port) for known in row.hosts):
            return row
    return None


def dialect_for(base_url: str, model: str) -> Dialect | None:
    """Return how a server is known to want requests for a model said; None where it is not known.

    >>> dialect_for("http://localhost:1234/v1", "qwen3").response_formats
    ('json_schema',)
    >>> dialect_for("https://llm.example.com/v1", "qwen3") is None
    True
    """
    row = server_for(base_url, model)
    return None if row is None else row.dialect


def _is_at(known: str, host: str, port: int | None) -> bool:
    if known.startswith(":"):
        return str(port) == known[1:] and _is_this_machine(host)
    return host.endswith(known) if known.startswith(".") else host == known


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def servers_table() -> str:
    """Return the table in Markdown: what of each server's dialect is not the default."""
    rows = [
        f"| {row.name} | {', '.join(f'`{_shown(host)}`' for host in row.hosts)} | {_said(row)} |"
        for row in SERVERS
    ]
    return "\n".join(["| Server | Host | Dialect |", "| --- | --- | --- |", *rows])


def _shown(host: str) -> str:
    return f"localhost{host}" if host.startswith(":") else f"*{host}" if host.startswith(".") else host


def _said(row: Server) -> str:
    differences = repr(row.dialect)[len("Dialect(") : -1]
    header = f" key in `{row.key_header}`" if row.key_header else ""
    return (f"`{differences}`" if differences else "the default") + (";" + header if header else "")
