"""Fake servers of fifteen dialects, each refusing what the real one refuses, in its own words.

Where a text has a source, the source stands beside it: an issue that quotes it, or the server's documentation.
Where only the refusal is documented and not its text, that is said. None of this was tried on a live server.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from tests.servers.fake import Asked, Fake, Refusal, Rule, Shape
from tests.servers.model import part

__all__ = ["FAKES"]


def _openai(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Refusal(status, {"error": error})


def _refuses(field: str, refusal: Refusal) -> Rule:
    """Refuse requests that have a field."""
    return lambda asked: refusal if asked.body.get(field) is not None else None


def _refuses_many(refusal: Refusal) -> Rule:
    return lambda asked: refusal if asked.body.get("n", 1) != 1 else None


def _refuses_form(kind: str, refusal: Refusal) -> Rule:
    return lambda asked: refusal if part(asked.body, "response_format").get("type") == kind else None


def _forced(asked: Asked) -> bool:
    return asked.body.get("tool_choice") not in {None, "auto", "none"} if _is_text(asked) else True


def _is_text(asked: Asked) -> bool:
    return not isinstance(asked.body.get("tool_choice"), dict)


def _refuses_forced(refusal: Refusal) -> Rule:
    return lambda asked: refusal if _forced(asked) else None


def _first_message(
    asked: Asked, matches: Callable[[dict[str, Any]], bool]
) -> tuple[int, dict[str, Any]] | None:
    found = ((place, message) for place, message in enumerate(asked.body["messages"]) if matches(message))
    return next(found, None)


# --- OpenAI: gpt-5 and the o-series -----------------------------------------------------------------------------


def _openai_temperature(asked: Asked) -> Refusal | None:
    # https://github.com/diffbot/code-gpt-docs/issues/445
    temperature = asked.body.get("temperature", 1)
    return (
        None
        if temperature == 1
        else _openai(
            f"Unsupported value: 'temperature' does not support {temperature} with this model. "
            "Only the default (1) value is supported.",
            "temperature",
            "unsupported_value",
        )
    )


_MAX_TOKENS: Final = _openai(  # https://github.com/griptape-ai/ComfyUI-Griptape/issues/312
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "max_tokens",
    "unsupported_parameter",
)
# That reasoning models refuse it: https://github.com/UKGovernmentBEIS/inspect_ai/pull/2739; the text is that of
# other fields: https://github.com/OpenHands/software-agent-sdk/issues/1837
_LOGPROBS: Final = _openai("Unsupported parameter: 'logprobs' is not supported with this model.", "logprobs")


def openai() -> Fake:
    rules = (_refuses("max_tokens", _MAX_TOKENS), _openai_temperature, _refuses("logprobs", _LOGPROBS))
    return Fake("openai", "https://api.openai.com/v1", "gpt-5-mini", rules, Shape(shows_schema=True))


# --- Azure OpenAI, the older API: a deployment in the path, a version in the query, its own key header ----------


def _azure_address(asked: Asked) -> Refusal | None:
    deployment = asked.path.removeprefix("/openai/deployments/").partition("/")[0]
    if not asked.query.get("api-version"):
        return Refusal(404, {"error": {"code": "404", "message": "Resource not found"}})
    if deployment != "chat-prod":
        message = "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."
        return Refusal(404, {"error": {"code": "DeploymentNotFound", "message": message}})
    return None


def _azure_filter(asked: Asked) -> Refusal | None:
    # https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter
    if "FORBIDDEN" not in str(asked.body["messages"]):
        return None
    inner = {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
    }
    message = (
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
    )
    error = {"message": message, "type": None, "param": "prompt", "code": "content_filter", "status": 400}
    return Refusal(400, {"error": {**error, "innererror": inner}})


def azure() -> Fake:
    unrecognized = _openai("Unrecognized request argument supplied: max_completion_tokens")
    return Fake(
        "azure",
        "https://contoso.openai.azure.com/openai/deployments/chat-prod?api-version=2024-10-21",
        "chat-prod",
        (_azure_address, _azure_filter, _refuses("max_completion_tokens", unrecognized)),
        Shape(shows_schema=True, before=({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},)),
        key_header="api-key",
        no_key=Refusal(  # https://github.com/SciSharp/BotSharp/issues/386
            401,
            {
                "error": {
                    "code": "401",
                    "message": "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
                    "provide a valid key for an active subscription and use a correct regional API endpoint for "
                    "your resource.",
                }
            },
        ),
    )


# --- Groq --------------------------------------------------------------------------------------------------------


def _groq_json_with_tools(asked: Asked) -> Refusal | None:
    # https://github.com/vercel/ai/pull/16540
    if asked.body.get("tools") and asked.body.get("response_format"):
        return Refusal(400, _groq("json mode cannot be combined with tool/function calling"))
    return None


def _groq_fields(asked: Asked) -> Refusal | None:
    # https://github.com/janhq/jan/issues/8136
    found = _first_message(asked, lambda message: "reasoning_content" in message)
    return found and Refusal(
        400,
        _groq(
            f"'messages.{found[0]}' : for 'role:assistant' the following must be satisfied"
            f"[('messages.{found[0]}' : property 'reasoning_content' is unsupported)]"
        ),
    )


def _groq(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def groq() -> Fake:
    rules = (
        # https://console.groq.com/docs/openai; the text in ogx-ai/ogx, tests of `n`
        _refuses_many(Refusal(400, _groq("'n' : number must be at most 1"))),
        # https://github.com/groq/groq-python/issues/25
        _refuses("logprobs", Refusal(400, _groq("`logprobs` is not supported with this model"))),
        # https://github.com/ItzCrazyKns/Vane/issues/980
        _refuses_form(
            "json_schema",
            Refusal(
                400,
                _groq(
                    "This model does not support response format `json_schema`. See supported models at "
                    "https://console.groq.com/docs/structured-outputs#supported-models"
                ),
            ),
        ),
        _groq_json_with_tools,
        _groq_fields,
    )
    shape = Shape(forms=("json_object",), usage="groq")
    return Fake("groq", "https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", rules, shape)


# --- DeepSeek, the reasoner --------------------------------------------------------------------------------------


def _deepseek_refusal(message: str) -> Refusal:
    return _openai(message, code="invalid_request_error")


def _deepseek_echo(asked: Asked) -> Refusal | None:
    # https://github.com/hotovo/aider-desk/issues/529
    found = _first_message(
        asked, lambda message: bool(message.get("tool_calls")) and "reasoning_content" not in message
    )
    return found and _deepseek_refusal(
        f"Missing `reasoning_content` field in the assistant message at message index {found[0]}. For more "
        "information, please refer to https://api-docs.deepseek.com/guides/thinking_mode#tool-calls"
    )


def deepseek() -> Fake:
    rules = (
        # https://github.com/llm-exe/llm-exe/issues/662
        _refuses_form("json_schema", _deepseek_refusal("This response_format type is unavailable now")),
        # https://github.com/pydantic/pydantic-ai/issues/1886
        _refuses_forced(_deepseek_refusal("deepseek-reasoner does not support this tool_choice")),
        # https://api-docs.deepseek.com/api/create-chat-completion; quoted in several clients' workarounds
        _refuses_many(_deepseek_refusal("Invalid n value (currently only n = 1 is supported)")),
        # https://api-docs.deepseek.com/guides/reasoning_model: "will trigger an error"; the text is ours
        _refuses("logprobs", _deepseek_refusal("deepseek-reasoner does not support the parameter logprobs")),
        _deepseek_echo,
    )
    shape = Shape(reasoning="reasoning_content", forms=("json_object",), usage_with_finish=True)
    return Fake("deepseek", "https://api.deepseek.com", "deepseek-reasoner", rules, shape)


# --- Mistral -----------------------------------------------------------------------------------------------------


def _mistral_forbidden(*place: object) -> Refusal:
    # https://github.com/dnakov/anon-kode/issues/53, https://github.com/charmbracelet/crush/issues/1590
    detail = [
        {
            "type": "extra_forbidden",
            "loc": ["body", *place],
            "msg": "Extra inputs are not permitted",
            "input": True,
        }
    ]
    body = {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}
    return Refusal(422, {**body, "param": None, "code": None})


def _mistral_fields(asked: Asked) -> Refusal | None:
    for place, message in enumerate(asked.body["messages"]):
        for name in sorted(
            message.keys() - {"role", "content", "tool_calls", "tool_call_id", "name", "prefix"}
        ):
            return _mistral_forbidden("messages", place, message["role"], name)
    return None


def _mistral_ids(asked: Asked) -> Refusal | None:
    # https://github.com/nearai/ironclaw/issues/1241
    given = [call["id"] for message in asked.body["messages"] for call in message.get("tool_calls") or ()]
    wrong = next((identity for identity in given if not re.fullmatch("[a-zA-Z0-9]{9}", identity)), None)
    if wrong is None:
        return None
    message = f"Tool call id was {wrong} but must be a-z, A-Z, 0-9, with a length of 9."
    body = {
        "object": "error",
        "message": message,
        "type": "invalid_function_call",
        "param": None,
        "code": "3280",
    }
    return Refusal(400, body)


def mistral() -> Fake:
    rules = (
        _refuses("stream_options", _mistral_forbidden("stream_options", "include_usage")),
        _refuses("max_completion_tokens", _mistral_forbidden("max_completion_tokens")),
        _refuses("logprobs", _mistral_forbidden("logprobs")),
        _mistral_fields,
        _mistral_ids,
    )
    shape = Shape(usage="always", usage_with_finish=True, call_id=lambda number: f"D681Pe{number:03d}")
    return Fake("mistral", "https://api.mistral.ai/v1", "mistral-large-latest", rules, shape)


# --- OpenRouter --------------------------------------------------------------------------------------------------


def openrouter() -> Fake:
    # https://github.com/zed-industries/zed/issues/36094, for GLM 4.5 Air
    message = (
        "No endpoints found that support the provided 'tool_choice' value. "
        "To learn more about provider routing, visit: https://openrouter.ai/docs/provider-routing"
    )
    rules = (_refuses_forced(Refusal(404, {"error": {"message": message, "code": 404}})),)
    shape = Shape(
        reasoning="reasoning", takes_n=False, usage="always", usage_extra={"cost": 0.0001}, comments=True
    )
    return Fake("openrouter", "https://openrouter.ai/api/v1", "z-ai/glm-4.5-air", rules, shape)


# --- Together, Fireworks -----------------------------------------------------------------------------------------


def together() -> Fake:
    # https://github.com/tensorzero/tensorzero/pull/2952: "a generic 'Invalid request' error"
    rules = (_refuses_forced(_openai("Invalid request")),)
    return Fake(
        "together", "https://api.together.xyz/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo", rules, Shape()
    )


def _fireworks_limit(asked: Asked) -> Refusal | None:
    # https://github.com/nullclaw/nullclaw/pull/231
    if asked.body.get("max_tokens", 0) <= 4096 or asked.body.get("stream"):
        return None
    message = "Requests with max_tokens > 4096 must have stream=true"
    return Refusal(
        400, {"error": {"message": message, "param": "max_tokens", "code": "BAD_REQUEST", "type": "error"}}
    )


def fireworks() -> Fake:
    # https://github.com/FlowiseAI/Flowise/issues/2866
    options = _openai("Extra inputs are not permitted, field: 'stream_options'")
    rules = (_refuses("stream_options", options), _fireworks_limit)
    model = "accounts/fireworks/models/llama-v3p3-70b-instruct"
    return Fake("fireworks", "https://api.fireworks.ai/inference/v1", model, rules, Shape(usage="always"))


# --- Gemini's compatible endpoint --------------------------------------------------------------------------------

_SIGNATURE: Final = {"extra_content": {"google": {"thought_signature": "CmsBVKhc7mR2"}}}


def _google(message: str) -> Refusal:
    return Refusal(400, [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}])


def _gemini_signature(asked: Asked) -> Refusal | None:
    # https://github.com/Gitlawb/openclaude/issues/67
    for place, message in enumerate(asked.body["messages"]):
        for call in message.get("tool_calls") or ():
            if call.get("extra_content") != _SIGNATURE["extra_content"]:
                return _google(
                    "Function call is missing a thought_signature in functionCall parts. This is required for tools "
                    "to work correctly, and missing thought_signature may lead to degraded model performance. "
                    f"Additional data, function call `default_api:{call['function']['name']}` , position {place + 1}. "
                    "Please refer to https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                )
    return None


def gemini() -> Fake:
    model = "gemini-3-pro-preview"
    rules = (
        # Both texts stand in ogx-ai/ogx, tests of `n`, and in mscraftsman/generative-ai#135
        _refuses_many(_google("Only one candidate can be specified in the current model")),
        _refuses("logprobs", _google(f"Logprobs is not enabled for models/{model}")),
        _gemini_signature,
    )
    base_url = "https://generativelanguage.googleapis.com/v1beta/openai"
    return Fake("gemini", base_url, model, rules, Shape(call_extra=_SIGNATURE, usage_with_finish=True))


# --- On one's own machine ----------------------------------------------------------------------------------------


def ollama() -> Fake:
    # https://docs.ollama.com/api/openai-compatibility lists neither `tool_choice` nor `n`; they are ignored.
    shape = Shape(reasoning="reasoning", choice=False, takes_n=False, takes_logprobs=False)
    return Fake("ollama", "http://localhost:11434/v1", "qwen3", (), shape, key_header=None)


def _vllm_system(asked: Asked) -> Refusal | None:
    # https://github.com/BerriAI/litellm/issues/26879: the chat template of Qwen 3.5 and later
    if all(message["role"] != "system" for message in asked.body["messages"][1:]):
        return None
    error = {"message": "System message must be at the beginning.", "type": "BadRequestError"}
    return Refusal(400, {"error": {**error, "param": None, "code": 400}})


def vllm() -> Fake:
    shape = Shape(reasoning="reasoning")
    return Fake(
        "vllm", "http://localhost:8000/v1", "Qwen/Qwen3.6-27B", (_vllm_system,), shape, key_header=None
    )


def llama_cpp() -> Fake:
    loading = [True]

    def is_loading(asked: Asked) -> Refusal | None:
        # ggml-org/llama.cpp, tools/server/README.md: until the model is loaded
        if not loading:
            return None
        loading.clear()
        return Refusal(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})

    return Fake("llama.cpp", "http://localhost:8080/v1", "qwen2.5-0.5b", (is_loading,), key_header=None)


def lm_studio() -> Fake:
    def named(asked: Asked) -> Refusal | None:
        # https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/670
        message = "Invalid tool_choice type: 'object'. Supported string values: none, auto, required"
        return None if _is_text(asked) else Refusal(400, {"error": message})

    # https://github.com/LoadShine/tada/issues/16
    objects = Refusal(400, {"error": "'response_format.type' must be 'json_schema' or 'text'"})
    shape = Shape(forms=("json_schema",), takes_n=False, takes_logprobs=False)
    rules = (named, _refuses_form("json_object", objects))
    return Fake("lmstudio", "http://localhost:1234/v1", "qwen2.5-7b-instruct", rules, shape, key_header=None)


# --- Moonshot ----------------------------------------------------------------------------------------------------


def _moonshot(message: str) -> Refusal:
    return Refusal(400, {"error": {"message": message, "type": "invalid_request_error"}})


def _moonshot_temperature(asked: Asked) -> Refusal | None:
    # https://github.com/lsdefine/GenericAgent/pull/30; the text in several clients' tests
    if asked.body.get("temperature", 1) == 1:
        return None
    return _moonshot("invalid temperature: only 1 is allowed for this model")


def _moonshot_choice(asked: Asked) -> Refusal | None:
    # https://github.com/can1357/oh-my-pi/issues/827, https://github.com/AstrBotDevs/AstrBot/issues/7805
    if not _forced(asked):
        return None
    given = "required" if _is_text(asked) else "specified"
    return _moonshot(f"tool_choice '{given}' is incompatible with thinking enabled")


def _moonshot_echo(asked: Asked) -> Refusal | None:
    # https://github.com/MoonshotAI/kimi-agent-sdk/issues/169
    found = _first_message(
        asked, lambda message: bool(message.get("tool_calls")) and not message.get("reasoning_content")
    )
    return found and _moonshot(
        f"thinking is enabled but reasoning_content is missing in assistant tool call message at index {found[0]}"
    )


def moonshot() -> Fake:
    # https://platform.moonshot.ai/docs/api/chat knows the forms "text" and "json_object"; what becomes of another
    # is not documented: here it is ignored.
    shape = Shape(
        reasoning="reasoning_content", forms=("json_object",), takes_logprobs=False, usage_with_finish=True
    )
    rules = (_moonshot_temperature, _moonshot_choice, _moonshot_echo)
    return Fake("moonshot", "https://api.moonshot.ai/v1", "kimi-k2.6", rules, shape)


# --- Anthropic's compatible endpoint -----------------------------------------------------------------------------


def anthropic_compat() -> Fake:
    # https://platform.claude.com/docs/en/api/openai-sdk: `n` must be 1, `response_format` and `logprobs` are ignored.
    # The text is ours.
    rules = (_refuses_many(_openai("n: Input should be 1", code="invalid_request_error")),)
    shape = Shape(forms=(), takes_logprobs=False, call_id="toolu_{:022d}".format)
    return Fake("anthropic", "https://api.anthropic.com/v1", "claude-sonnet-4-5", rules, shape)


FAKES: Final[dict[str, Callable[[], Fake]]] = {
    make().name: make
    for make in (
        openai,
        azure,
        groq,
        deepseek,
        mistral,
        openrouter,
        together,
        fireworks,
        gemini,
        ollama,
        vllm,
        llama_cpp,
        lm_studio,
        moonshot,
        anthropic_compat,
    )
}
"""How to make each, by its name; a test has one of its own."""
