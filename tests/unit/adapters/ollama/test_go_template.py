"""Templates in Go's language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.http.ollama.go_syntax import is_jinja, parse_template
from dmr_adapters.http.ollama.go_template import render_chat, render_prompt
from dmr_core.errors import InvalidRequestError

CHATML = """{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{- if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
LISTED = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}[INST] {{ .Content }}[/INST]
{{- else if eq .Role "assistant" }} {{ .Content }}</s>
{{- end -}}
{{- if $last }}!{{ end }}
{{- end }}"""


def test_a_prompt_ends_where_the_response_begins() -> None:
    assert render_prompt(CHATML, prompt="Hi") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render_prompt(CHATML, system="S", prompt="Hi").startswith(
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user"
    )


def test_a_chat_is_one_turn_after_the_other() -> None:
    said = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C")]
    assert render_chat(CHATML, said) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_lists_messages_sees_all_of_them() -> None:
    said = [("user", "A"), ("assistant", "B"), ("user", "C")]
    assert render_chat(LISTED, said) == "[INST] A[/INST] B</s>[INST] C[/INST]!"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{{ .Prompt }}", "P"),
        ("a {{- .Prompt -}} b", "aPb"),
        ("{{/* said to nobody */}}x", "x"),
        ('{{ if and .Prompt (ne .System "x") }}y{{ else }}n{{ end }}', "y"),
        ("{{ if not .Prompt }}y{{ else if .System }}s{{ else }}n{{ end }}", "n"),
        ("{{ with .Prompt }}<{{ . }}>{{ end }}", "<P>"),
        ('{{ $x := "1" }}{{ range .Messages }}{{ $x }}{{ .Role }}{{ end }}', "1user"),
        ("{{ range .Tools }}x{{ else }}none{{ end }}", "none"),
        ("{{ `raw }}` }}", "raw }}"),
        ('{{ "a\\n" }}', "a\n"),
        ("{{ len .Messages }}{{ .Nothing }}{{ or .System .Prompt }}", "1P"),
        ("{{ json .Messages }}", '[{"Role":"user","Content":"P"}]'),
        ("{{ (index .Messages 0).Role }}", "user"),
    ],
)
def test_what_templates_do(template: str, expected: str) -> None:
    assert render_prompt(template, prompt="P") == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Prompt",
        "{{ /* said",
        "{{ " + "/**/" * 40,
        '{{ "',
        '{{ "\\x" }}',
        "{{" + " " * 200_000,
        "{{ if .Prompt }}",
        "{{ end }}",
        "{{ else }}",
        "{{ if }}x{{ end }}",
        "{{ nonsense .Prompt }}",
        "{{ .Prompt | json }}",
        '{{ define "x" }}{{ end }}',
        "{{ eq }}",
        "{{ (.Prompt }}",
        "{{ }}",
        "{% for m in messages %}{% endfor %}",
        "{{ if .A }}" * 40 + "{{ end }}" * 40,
        "{{ " + "(" * 100 + ".A" + ")" * 100 + " }}",
        "x" * 300_000,
    ],
)
def test_what_is_wrong_is_refused(template: str) -> None:
    with pytest.raises(InvalidRequestError, match="invalid template"):
        render_prompt(template, prompt="P")


def test_a_template_cannot_make_more_than_there_is_room_for() -> None:
    loop = "{{ range .Messages }}" * 6 + "x" + "{{ end }}" * 6
    with pytest.raises(InvalidRequestError, match="steps"):
        render_chat(loop.replace(".Messages", "$.Messages"), [("user", "A")] * 20)
    with pytest.raises(InvalidRequestError, match="steps"):
        render_chat("{{ range .Messages }}{{ len (json $.Messages) }}{{ end }}", [("user", "A" * 10_000)] * 50)
    with pytest.raises(InvalidRequestError, match="characters"):
        render_chat("{{ range .Messages }}{{ $.Prompt }}{{ end }}", [("user", "A" * 100_000)] * 200)


@given(st.text(alphabet='{}-.$ ()/*\\"`|:=ifelsndragMPx\n', max_size=60))
def test_no_template_does_anything_else_than_to_be_rendered_or_refused(template: str) -> None:
    refused = ""
    try:
        render_prompt(template, prompt="P")
    except InvalidRequestError as exc:
        refused = exc.message
    assert refused == "" or refused.startswith("invalid template")


def test_jinja_is_told_from_go() -> None:
    assert is_jinja("{% if x %}{% endif %}")
    assert is_jinja("{{ bos_token }}{{ messages[0] }}")
    assert not is_jinja(CHATML)
    assert parse_template("") == ()
