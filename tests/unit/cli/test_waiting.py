"""What is shown of an engine that takes its time to start."""

from __future__ import annotations

import pytest

from dmr_cli.client.waiting import vllm_phase


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "(APIServer pid=19730) INFO 11-23 10:29:22 [model.py:733] Resolved architecture: LlamaForCausalLM",
            "Resolved architecture: LlamaForCausalLM",
        ),
        (
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.0s/it]",
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.0s/it]",
        ),
        ("(Worker pid=1) INFO 11-23 10:26:06 [cpu_model_runner.py:91] Warming up done.", "Warming up done."),
        ("(APIServer pid=1) INFO 11-23 10:29:16 [api_utils.py:347]   █▄█▀ █     █", ""),
        ("(EngineCore pid=1) WARNING 11-23 10:26:09 [cpu.py:224] Triton is not installed.", ""),
        ('INFO:      - "POST /v1/chat/completions HTTP/1.1" 200 OK', ""),
        ("", ""),
    ],
)
def test_the_phases_of_vllm_are_told_and_nothing_else(line: str, shown: str) -> None:
    assert vllm_phase(line) == shown
