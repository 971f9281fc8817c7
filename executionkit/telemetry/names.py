"""The names of OpenTelemetry's conventions for generative AI, of the releases that `otel` knows.

The conventions are in development and will change; this module is the one place that knows their names.
What no convention names yet has names of our own, all of them below `executionkit`, but for `operation.cost`,
which other libraries write and some viewers read.
"""

from typing import Final, Literal, TypeAlias

import msgspec

__all__ = ["NAMES", "PROVIDERS", "PROVIDER_SUFFIXES", "SCHEMA_URLS", "Names", "Release", "Version"]

Version: TypeAlias = Literal["0.1", "1.41", "both"]
"""Which names to use: of release 0.1.0 of `semantic-conventions-genai`, of the last release that the general
conventions had of them (1.41), or those of both."""

SCHEMA_URLS: Final[dict[Version, str]] = {
    "0.1": "https://opentelemetry.io/schemas/gen-ai/0.1.0",
    "1.41": "https://opentelemetry.io/schemas/1.41.0",
    "both": "https://opentelemetry.io/schemas/gen-ai/0.1.0",
}


class Release(msgspec.Struct, frozen=True):
    """What one release calls what another calls otherwise.

    Args:
        duration: The metric of a call's duration.
        first_chunk: The metric of the time to the first piece.
        output_chunk: The metric of the time that each further piece takes.
        counts_tokens: Whether tokens have counters and histograms by kind; else there is one histogram,
            `gen_ai.client.token.usage`.
        cache_write: Input tokens written to a cache.
        workflow: The name of a workflow.
        names_provider: Whether agents and workflows name a provider.
        has_level: Whether the effort of reasoning has a name.
    """

    duration: str
    first_chunk: str
    output_chunk: str
    counts_tokens: bool
    cache_write: str
    workflow: str
    names_provider: bool
    has_level: bool


_OF_0_1: Final = Release(
    "gen_ai.client.inference.duration",
    "gen_ai.client.inference.time_to_first_chunk",
    "gen_ai.client.inference.time_per_output_chunk",
    counts_tokens=True,
    cache_write="gen_ai.usage.cache_write.input_tokens",
    workflow="gen_ai.agent.name",
    names_provider=False,
    has_level=True,
)
_OF_1_41: Final = Release(
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.operation.time_per_output_chunk",
    counts_tokens=False,
    cache_write="gen_ai.usage.cache_creation.input_tokens",
    workflow="gen_ai.workflow.name",
    names_provider=True,
    has_level=False,
)
NAMES: Final[dict[Version, tuple[Release, ...]]] = {
    "0.1": (_OF_0_1,),
    "1.41": (_OF_1_41,),
    "both": (_OF_0_1, _OF_1_41),
}


class Names:
    """Names on which the releases agree, and our own."""

    SCOPE: Final = "executionkit"

    OPERATION: Final = "gen_ai.operation.name"
    PROVIDER: Final = "gen_ai.provider.name"
    AGENT: Final = "gen_ai.agent.name"
    MODEL: Final = "gen_ai.request.model"
    MAX_TOKENS: Final = "gen_ai.request.max_tokens"
    TEMPERATURE: Final = "gen_ai.request.temperature"
    CHOICES: Final = "gen_ai.request.choice.count"
    STREAM: Final = "gen_ai.request.stream"
    STOP: Final = "gen_ai.request.stop_sequences"
    REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
    SETTINGS: Final = {
        "top_p": "gen_ai.request.top_p",
        "top_k": "gen_ai.request.top_k",
        "seed": "gen_ai.request.seed",
        "frequency_penalty": "gen_ai.request.frequency_penalty",
        "presence_penalty": "gen_ai.request.presence_penalty",
    }
    WHOLE: Final = frozenset({"top_k", "seed"})
    """Those of the settings that are whole numbers; the others have a fraction."""
    OUTPUT_TYPE: Final = "gen_ai.output.type"
    RESPONSE_ID: Final = "gen_ai.response.id"
    RESPONSE_MODEL: Final = "gen_ai.response.model"
    FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
    FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
    INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
    CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
    REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
    INPUT_MESSAGES: Final = "gen_ai.input.messages"
    OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
    TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
    TOOL: Final = "gen_ai.tool.name"
    TOOL_TYPE: Final = "gen_ai.tool.type"
    TOOL_DESCRIPTION: Final = "gen_ai.tool.description"
    TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
    TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
    TOOL_RESULT: Final = "gen_ai.tool.call.result"
    EVALUATION: Final = "gen_ai.evaluation.result"
    EVALUATION_NAME: Final = "gen_ai.evaluation.name"
    EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
    EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"
    ERROR: Final = "error.type"
    ADDRESS: Final = "server.address"
    PORT: Final = "server.port"
    MODALITY: Final = "gen_ai.token.modality"
    TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105
    OTHER: Final = "_OTHER"
    """What stands for a name that has too many values, such as that of a tool which a model made up."""

    USAGE_INPUT: Final = "gen_ai.client.inference.usage.input_tokens"
    USAGE_OUTPUT: Final = "gen_ai.client.inference.usage.output_tokens"
    USAGE_CACHE_READ: Final = "gen_ai.client.inference.usage.cache_read.input_tokens"
    USAGE_CACHE_WRITE: Final = "gen_ai.client.inference.usage.cache_write.input_tokens"
    USAGE_REASONING: Final = "gen_ai.client.inference.usage.reasoning.output_tokens"
    CALL_INPUT: Final = "gen_ai.client.inference.operation.input_tokens"
    CALL_OUTPUT: Final = "gen_ai.client.inference.operation.output_tokens"
    TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105
    AGENT_DURATION: Final = "gen_ai.invoke_agent.duration"
    AGENT_CALLS: Final = "gen_ai.invoke_agent.inference_calls"
    AGENT_TOOL_CALLS: Final = "gen_ai.invoke_agent.tool_calls"
    TOOL_DURATION: Final = "gen_ai.execute_tool.duration"
    COST: Final = "operation.cost"
    """US dollars: the attribute and metric of Logfire and pydantic-ai; no convention has one yet."""

    ATTEMPT: Final = "executionkit.attempt"
    WAIT: Final = "executionkit.wait"
    CANCELLED: Final = "executionkit.cancelled"
    ESTIMATED: Final = "executionkit.usage.estimated"
    REPLAYED: Final = "executionkit.replayed"
    ORDINAL: Final = "executionkit.call.ordinal"
    ATTEMPTS: Final = "executionkit.call.attempts"
    STAGE: Final = "executionkit.stage.name"
    KIND: Final = "executionkit.stage.kind"
    PATH: Final = "executionkit.path"
    RUN: Final = "executionkit.run"
    CHARGED_TO: Final = "executionkit.run.charged_to"
    SCORE: Final = "executionkit.score"
    ITERATION: Final = "executionkit.iteration"
    VOTE: Final = "executionkit.vote"
    SPENT_CALLS: Final = "executionkit.cost.llm_calls"
    SPENT_INPUT: Final = "executionkit.cost.input_tokens"
    SPENT_OUTPUT: Final = "executionkit.cost.output_tokens"
    SPENT_USD: Final = "executionkit.cost.usd"
    ELSEWHERE: Final = "executionkit.cost.elsewhere"
    ITEM: Final = "executionkit.item.index"
    ITEMS: Final = "executionkit.item.total"
    ITEM_NAME: Final = "executionkit.item.name"

    SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
    RUN_SECONDS: Final = tuple([0.1 * 2**power for power in range(13)])
    TOKENS: Final = tuple([4**power for power in range(14)])
    CALLS: Final = tuple([2**power for power in range(8)])
    """The bounds of the buckets that the conventions ask for."""


PROVIDERS: Final = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
"""The conventions' names of providers, by host."""

PROVIDER_SUFFIXES: Final = (
    (".openai.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    (".amazonaws.com", "aws.bedrock"),
    (".ml.cloud.ibm.com", "ibm.watsonx.ai"),
)
"""The same by the end of a host. Any other server is named for the format it speaks."""
