"""Which fields of a request vLLM honours, by path: those of the schemas in its own ``/openapi.json`` (0.32).

It takes any other field and ignores it. ``user`` is in its schemas, and nothing is done with it.
"""

from __future__ import annotations

from typing import Final

from dmr_core.domain.capability import Capabilities, TokenCounter

__all__ = ["CAPABILITIES"]

_SAMPLING: Final = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"),
        *("length_penalty", "repetition_detection", "seed", "logit_bias", "allowed_token_ids", "bad_words", "n"),
        *("use_beam_search", "thinking_token_budget", "structured_outputs", "response_format", "watermarking"),
    }
)
_LENGTH: Final = frozenset(
    {"max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output"}
)
_CONTROL: Final = frozenset(
    {
        *("model", "stream", "stream_options", "stream_interval", "logprobs", "prompt_logprobs", "logprob_token_ids"),
        *("echo", "skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens", "priority"),
        *("truncate_prompt_tokens", "truncation_side", "return_token_ids", "return_token_offsets", "request_id"),
        *("return_tokens_as_token_ids", "cache_salt", "session_id", "kv_transfer_params", "ec_transfer_params"),
        *("vllm_xargs", "mm_payload", "return_mm_kwargs", "routed_experts_prompt_start"),
    }
)
_CHAT: Final = frozenset(
    {
        *("messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls"),
        *("reasoning_effort", "include_reasoning", "chat_template", "chat_template_kwargs", "documents"),
        *("add_generation_prompt", "continue_final_message", "media_io_kwargs", "mm_processor_kwargs"),
        "return_prompt_text",
    }
)
_MESSAGES: Final = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "stream"),
        *("tools", "tool_choice", "thinking", "output_config", "chat_template_kwargs", "vllm_xargs", "cache_salt"),
        *("kv_transfer_params", "ec_transfer_params", "mm_payload", "return_mm_kwargs", "watermarking"),
    }
)

CAPABILITIES: Final = Capabilities(
    fields={
        "/v1/chat/completions": _SAMPLING | _LENGTH | _CONTROL | _CHAT,
        "/v1/completions": _SAMPLING | _LENGTH | _CONTROL | {"prompt", "prompt_embeds", "suffix"},
        "/v1/messages": _MESSAGES,
    },
    counter=TokenCounter.TOKENIZE,
)
