"""References: the reference runner's table, with its defects fixed where a comment says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.digest import Digest
from dmr_core.domain.naming import display_name
from dmr_core.domain.reference import ReferencePolicy, parse_model_id, parse_reference
from dmr_core.errors import InvalidReferenceError, InvalidRequestError

POLICY = ReferencePolicy()
HEX = "a1" * 32


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("gemma3", "docker.io/ai/gemma3:latest"),
        ("gemma3:v1", "docker.io/ai/gemma3:v1"),
        ("  gemma3  ", "docker.io/ai/gemma3:latest"),
        ("model:", "docker.io/ai/model:latest"),
        ("myorg/model:", "docker.io/myorg/model:latest"),
        ("MyModel", "docker.io/ai/mymodel:latest"),
        ("AI/Gemma3:Q4_K_M", "docker.io/ai/gemma3:Q4_K_M"),
        ("myorg/model", "docker.io/myorg/model:latest"),
        ("a/b/c/d:e", "docker.io/a/b/c/d:e"),
        ("docker.io/gemma3", "docker.io/ai/gemma3:latest"),
        ("index.docker.io/ai/gemma3:x", "docker.io/ai/gemma3:x"),
        ("registry-1.docker.io/ai/gemma3", "registry-1.docker.io/ai/gemma3:latest"),
        ("library/gemma3", "docker.io/library/gemma3:latest"),
        ("registry.example.com/model", "registry.example.com/model:latest"),
        ("localhost:5000/model", "localhost:5000/model:latest"),
        ("127.0.0.1:5000/m", "127.0.0.1:5000/m:latest"),
        ("[::1]:5000/m", "[::1]:5000/m:latest"),
        ("mybox.local/m:1", "mybox.local/m:1"),
        ("hf.co/Org/Model", "huggingface.co/org/model:latest"),
        ("hf.co/Org/Model:Q4_K_M", "huggingface.co/org/model:Q4_K_M"),
        ("HF.co/Org/Model", "huggingface.co/org/model:latest"),  # fixed: a host name has no case
        ("hf.co/org/a_-b", "huggingface.co/org/a_-b:latest"),  # fixed: legal on the Hub
        ("hf.co/org/name-", "huggingface.co/org/name-:latest"),  # fixed: as above
        ("hf.co/org/_name", "huggingface.co/org/_name:latest"),
        ("hf.co/Org/Model@main", "huggingface.co/org/model:latest"),  # what a name without a revision means
        ("hf.co/Org/Model:Q4_K_M@v1.0", "huggingface.co/org/model:Q4_K_M_at_v1.0"),
        ("hf.co/org/model:Q4_K_M_at_v1.0", "huggingface.co/org/model:Q4_K_M_at_v1.0"),
        ("HF.co/org/model@refs/pr/1", "huggingface.co/org/model:latest_at_refs__pr__1"),
        ("https://huggingface.co/Org/Model/", "huggingface.co/org/model:latest"),  # copied from a browser
        ("abc123", "docker.io/ai/abc123:latest"),
        ("1234567890AB", "docker.io/ai/1234567890ab:latest"),
        ("1234567890ab", "docker.io/ai/1234567890ab:latest"),
    ],
)
def test_table_of_references(text: str, canonical: str) -> None:
    assert canonical == parse_reference(text, POLICY).canonical


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"ai/gemma3@sha256:{HEX}", f"docker.io/ai/gemma3@sha256:{HEX}"),
        # fixed: the reference lower-cases the tag and then drops the digest
        (f"Gemma3:V1@sha256:{HEX}", f"docker.io/ai/gemma3@sha256:{HEX}"),
    ],
)
def test_a_digest_is_honoured(text: str, expected: str) -> None:
    assert expected == str(parse_reference(text, POLICY))


def test_a_tag_beside_a_digest_keeps_its_case() -> None:
    assert parse_reference(f"Gemma3:V1@sha256:{HEX}", POLICY).tag == "V1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "invalid:reference:format",
        "hf.co/org/model@",
        "hf.co/org/model@a b",
        "hf.co/org/model@../x",
        "hf.co/org/model@a__b",
        "hf.co/org/model:x_at_y@main",
        "hf.co/org/model@main:Q4_K_M",
        "hf.co/org/model@" + "b" * 125,
        "ai/model@main",
        HEX,
        f"ai/{HEX}",
        "ai/model@sha256:abc",
        "ai//model",
        "/model",
        "model/",
        "ai/mo del",
        "ai/model:-x",
        "ai/model:" + "x" * 129,
        "ai/" + "x" * 256,
        "../etc/passwd",
        "ai/../../x",
        "host:99x/model",
        "localhost:65536/x/y",
        "localhost:0/x/y",
        "[::1]:99999/x/y",
        "-host.com/model",
        "ai/model\n",
        "x" * 2000,
    ],
)
def test_what_is_no_reference_is_refused_with_a_reason(text: str) -> None:
    if text == "ai/model\n":  # white space around a name is not part of it
        assert parse_reference(text, POLICY).canonical == "docker.io/ai/model:latest"
        return
    with pytest.raises(InvalidReferenceError) as caught:
        parse_reference(text, POLICY)
    assert caught.value.reason


def test_the_default_registry_applies_to_names_without_one_only() -> None:
    policy = ReferencePolicy(default_registry="registry.local:5000")

    assert parse_reference("gemma3", policy).canonical == "registry.local:5000/ai/gemma3:latest"
    assert parse_reference("docker.io/ai/x", policy).canonical == "docker.io/ai/x:latest"
    # fixed: the reference sends localhost/x to the default registry
    assert parse_reference("localhost/x", policy).canonical == "localhost/x:latest"


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        (HEX, HEX),
        (f"sha256:{HEX}", HEX),
        (HEX[:12], HEX[:12]),
        (HEX[:11], None),
        (HEX.upper(), None),
        ("sha256:ab", None),
    ],
)
def test_ids_are_told_from_names(text: str, prefix: str | None) -> None:
    found = parse_model_id(text)

    assert (found.prefix if found else None) == prefix


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("docker.io/ai/gemma3:latest", "gemma3"),
        ("docker.io/ai/gemma3:v1", "gemma3:v1"),
        ("docker.io/myorg/gemma3:latest", "myorg/gemma3"),
        ("index.docker.io/ai/gemma3:latest", "gemma3"),
        ("hf.co/x/y:Q4", "hf.co/x/y:Q4"),
        ("localhost:5000/ai/x:latest", "localhost:5000/ai/x"),
        ("", ""),
    ],
)
def test_display_names(tag: str, shown: str) -> None:
    assert shown == display_name(tag)


_name = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+){0,2}", fullmatch=True)
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(org=_name, name=_name, tag=_tag)
def test_what_is_shown_parses_back_to_the_same_reference(org: str, name: str, tag: str) -> None:
    reference = parse_reference(f"docker.io/{org}/{name}:{tag}", POLICY)

    assert parse_reference(reference.display(POLICY), POLICY) == reference


@given(st.text(max_size=80))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text, POLICY)
    except InvalidReferenceError:
        return
    assert parse_reference(str(reference), POLICY) == parse_reference(str(reference), POLICY)
    assert ".." not in reference.repository.split("/")


@pytest.mark.parametrize(
    "text", ["sha256:", "sha256:" + HEX.upper(), "sha512:" + HEX * 2, HEX, "sha256:" + HEX + "0", ""]
)
def test_digests_have_one_form(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        Digest.parse(text)


def test_a_digest_prints_as_it_parses() -> None:
    assert str(Digest.parse(f"sha256:{HEX}")) == f"sha256:{HEX}"
    assert Digest.of(b"").short == "e3b0c44298fc"
