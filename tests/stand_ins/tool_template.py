"""A chat template that makes the bundled model call tools on a real engine.

llama.cpp reads off a template how a call looks, and with ``tool_choice: required`` its grammar lets a model write text until
the mark that begins a call, and then nothing but calls. The bundled model has never heard of tools and would not write
``<tool_call>``; to what it does not know it answers "I am only a tiny demo model …". So "I am only" is the mark here. The rest
is as in templates of the Hermes kind.
"""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Daemon

__all__ = ["TEMPLATE", "package_with_tools"]

TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n' }}{%- endif %}
    {{- 'You may call these functions:\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}
    {{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {{- '\nI am only{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}[end]' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n[result]\n' + message.content + '\n[/result]<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""


def package_with_tools(daemon: Daemon, directory: Path, name: str = "my/tools") -> str:
    """Make the bundled model one that calls tools, under ``name``; the service runs, and has ``dmr/demo``."""
    template = directory / "tools.jinja"
    template.write_text(TEMPLATE)
    daemon.cli("package", name, "--from", "dmr/demo", "--chat-template", str(template))
    return name
