"""Which fields of a request llama.cpp's server honours, by path.

As its server documents them (``tools/server/README.md``) and as the server answers: ``tests/e2e/test_llamacpp_capabilities.py``
asks the real one for each. A native server of another age may honour fewer or more.
"""

from __future__ import annotations

from typing import Final

from dmr_core.domain.capability import Capabilities, TokenCounter

__all__ = ["CAPABILITIES"]

_SAMPLING: Final = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "top_n_sigma", "typical_p", "xtc_probability", "xtc_threshold"),
        *("dynatemp_range", "dynatemp_exponent", "repeat_last_n", "repeat_penalty", "frequency_penalty"),
        *("presence_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
        *("dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"),
        *("seed", "n_probs", "min_keep", "logit_bias", "ignore_eos", "samplers", "backend_sampling"),
        *("grammar", "json_schema", "stop", "post_sampling_probs"),
    }
)
_LENGTH: Final = frozenset({"max_tokens", "max_completion_tokens", "n_predict", "n_keep", "n_discard", "n_indent"})
_CONTROL: Final = frozenset(
    {
        *("model", "stream", "stream_options", "n", "n_cmpl", "logprobs", "cache_prompt", "return_tokens"),
        *("return_progress", "timings_per_token", "id_slot", "lora", "t_max_predict_ms", "sse_ping_interval"),
        *("reasoning_format", "reasoning_budget_tokens", "reasoning_control", "verbose"),
    }
)
_TEMPLATE: Final = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs"),
        *("add_generation_prompt", "continue_final_message"),
    }
)
_MESSAGES: Final = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "stream"),
        *("tools", "chat_template_kwargs"),
    }
)
_INFILL: Final = frozenset(
    {
        *("input_prefix", "input_suffix", "input_extra", "prompt", "stream", "n_predict", "n_keep", "n_discard"),
        *("n_indent", "cache_prompt", "id_slot", "return_tokens", "timings_per_token", "t_max_predict_ms", "lora"),
    }
)

CAPABILITIES: Final = Capabilities(
    fields={
        "/v1/chat/completions": _SAMPLING | _LENGTH | _CONTROL | _TEMPLATE | {"response_format", "top_logprobs"},
        "/v1/completions": _SAMPLING | _LENGTH | _CONTROL | {"prompt", "grammar_lazy", "grammar_triggers"},
        "/infill": _SAMPLING | _INFILL,
        "/v1/embeddings": frozenset({"model", "input", "encoding_format", "embd_normalize"}),
        "/v1/messages": _MESSAGES,
        "/rerank": frozenset({"model", "query", "documents", "texts", "top_n", "return_text"}),
    },
    values={
        # A tool by its name is taken for no choice at all.
        "/v1/chat/completions": {"tool_choice": frozenset({b'"auto"', b'"required"', b'"none"', b"null"})},
        # Its last event has the usage whether that is asked for or not.
        "/v1/completions": {"stream_options": frozenset({b'{"include_usage":true}', b"null"})},
        # Any choice is passed over, and this one is what it does then.
        "/v1/messages": {"tool_choice": frozenset({b'{"type":"auto"}', b"null"})},
    },
    counter=TokenCounter.TEMPLATE,
)
