"""The flags that clients may give llama.cpp, held against the parser of the server that gets them."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmr_backends_llamacpp.allowed_flags import ALLOWED_FLAGS, CLIENT_FLAGS, CONTROLLED, EXITING, OPERATOR_FLAGS
from dmr_backends_llamacpp.flag_value_kinds import KINDS
from dmr_backends_llamacpp.server_flag_table import FLAGS
from dmr_backends_llamacpp.server_flags import FlagError, parse
from dmr_core.domain.flag_kinds import Choice, Integer, Json, Kind, Number, Pattern, Several, Text
from dmr_core.domain.flags import render

SERVER = {name: flag for flag in FLAGS for name in (*flag.spellings, *flag.off_spellings)}
NATIVE_ONLY = {name for name in CLIENT_FLAGS.names if name not in SERVER or SERVER[name].refused}
# What the reference pins as never allowed, and everything near it.
NEVER = (
    "--api-key --api-key-file --api-prefix --timeout -to --chat-template-file --config-file --control-vector "
    "--control-vector-scaled --grammar-file -jf --json-schema-file --log-file --lora --lora-path --lora-scaled -md -mm "
    "--mmproj --mmproj-url -mmu --model-draft --model-path --models-dir --models-preset --output-file --path "
    "--prompt-file --slot-save-path --ssl-cert-file --ssl-key-file --webui-config-file --host --port --model -m --rpc "
    "--alias -a --hf-repo -hf --model-url -mu --docker-repo -dr --tools --mcp-servers-config --media-path "
    "--video-ffmpeg-dir --override-tensor -ot --override-kv --lookup-cache-static -lcs --lookup-cache-dynamic -lcd "
    "--log-prompts-dir --cors-origins --reuse-port --agent"
)


def values(kind: Kind) -> st.SearchStrategy[str]:
    """Values a kind takes."""
    match kind:
        case Integer(low, high):
            return st.one_of(st.integers(low, high).map(str), *([st.sampled_from(kind.words)] if kind.words else []))
        case Number(low, high):
            return st.floats(low, high, allow_nan=False).map(lambda value: f"{value:.6g}").filter(kind.accepts)
        case Choice(words):
            return st.sampled_from(words)
        case Pattern(shape) if kind == KINDS["--cpu-range"]:
            return st.sampled_from(["0-3", "2-", "-7", "511-511"])
        case Pattern(shape):
            return st.from_regex(
                shape,
                fullmatch=True,
                alphabet=st.characters(codec="ascii", exclude_characters="/\\-", exclude_categories=["Cc"]),
            )
        case Several(each, separator):
            return st.lists(values(each), min_size=1, max_size=3).map(separator.join)
        case Text():
            return st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(
                lambda text: text[0] != "-"
            )
        case _:
            return st.sampled_from(["{}", '{"a": "b/c", "$ref": "#/a"}', '{"a": [1, true, null]}'])


@functools.cache
def sample(kind: Kind) -> str:
    if isinstance(kind, Several):
        return sample(kind.each)
    if isinstance(kind, Pattern):
        return next(text for text in ("0x3", "0-1", "CUDA0", "blk.0=CPU") if kind.accepts(text))
    if isinstance(kind, Json | Text):
        return "{}" if isinstance(kind, Json) else 'root ::= "/" "\\n"'
    words = kind.words if isinstance(kind, Integer | Choice) else ()
    return next(text for text in ("1", "0", *words) if kind.accepts(text))


def words_for(name: str) -> tuple[str, ...]:
    flag = CLIENT_FLAGS.find(name)
    assert flag is not None
    return (name,) if flag.kind is None else (name, sample(flag.kind))


def test_the_table_has_the_names_of_the_list_and_no_others() -> None:
    assert CLIENT_FLAGS.names == ALLOWED_FLAGS
    assert not set(NEVER.split()) & CLIENT_FLAGS.names
    assert all(flag.help for flag in CLIENT_FLAGS.flags)


def test_every_kind_belongs_to_a_flag() -> None:
    assert set(KINDS) <= CLIENT_FLAGS.names | {"--spec-draft-cpu-range-batch"}


def test_nothing_but_prose_may_hold_a_path() -> None:
    prose = {name for flag in CLIENT_FLAGS.flags if flag.kind and flag.kind.prose for name in flag.names}

    assert {"--grammar", "--json-schema", "-j", "--chat-template", "--chat-template-kwargs", "--webui-config"} == prose


@pytest.mark.parametrize("name", sorted(CLIENT_FLAGS.names))
def test_the_server_takes_every_allowed_flag_with_the_same_arity(name: str) -> None:
    words = words_for(name)
    assert words == render(CLIENT_FLAGS.parse(words))
    if name in SERVER:
        assert (SERVER[name].reader is not None) == (len(words) == 2)
    if name not in NATIVE_ONLY:
        parse([*words, "--model", "m.gguf"])


def test_the_server_that_comes_with_dmr_lacks_only_these() -> None:
    assert {"--device", "-dev", "--top-nsigma", "--spm-infill", "--ctx-size-draft", "-cd"} == NATIVE_ONLY


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_value_of_a_kind_is_a_value_for_the_server(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(CLIENT_FLAGS.names - NATIVE_ONLY)))
    flag = CLIENT_FLAGS.find(name)
    assert flag is not None
    value = () if flag.kind is None else (data.draw(values(flag.kind)),)
    uses = CLIENT_FLAGS.parse((name, *value))
    try:
        parse([*render(uses), "--model", "m.gguf"])
    except FlagError as exc:
        raise AssertionError(f"{name} {value}: {exc}") from exc
    assert OPERATOR_FLAGS.parse(render(uses))[0].flag.slot == uses[0].flag.slot


def test_the_runner_keeps_what_is_its_own_in_every_spelling() -> None:
    named = "-m --model -a --alias --host --port --api-key --api-key-file --api-prefix --ssl-key-file -mm --mmproj -md"
    also = "--embedding --embeddings --rerank --reranking -hf --hf-repo -mu -dr -mmu --spec-draft-model --models-dir"

    assert {*named.split(), *also.split()} < CONTROLLED
    assert not CONTROLLED & EXITING
    assert CONTROLLED < OPERATOR_FLAGS.names
