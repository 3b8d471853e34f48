"""Names of models on the Hub."""

from __future__ import annotations

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from dmr_core.domain.hub_reference import HubReference, is_hub_name, without_scheme
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import InvalidReferenceError

POLICY = ReferencePolicy()


def read(text: str) -> HubReference:
    reference = parse_reference(text, POLICY)
    return HubReference.of(reference.spelled, reference.tag)


@pytest.mark.parametrize(
    ("text", "repository", "selector", "revision", "shown"),
    [
        ("hf.co/Org/M", "Org/M", "", "main", "hf.co/Org/M"),
        ("huggingface.co/Org/M:latest", "Org/M", "", "main", "hf.co/Org/M"),
        ("hf.co/Org/M:main", "Org/M", "", "main", "hf.co/Org/M"),
        ("hf.co/Org/M:Q4_K_M", "Org/M", "Q4_K_M", "main", "hf.co/Org/M:Q4_K_M"),
        ("hf.co/gpt2", "gpt2", "", "main", "hf.co/gpt2"),
        ("hf.co/Org/M@v1.0", "Org/M", "", "v1.0", "hf.co/Org/M@v1.0"),
        ("hf.co/Org/M:Q4_K_M@refs/pr/1", "Org/M", "Q4_K_M", "refs/pr/1", "hf.co/Org/M:Q4_K_M@refs/pr/1"),
        ("hf.co/Org/M:Q4_K_M_at_v1.0", "Org/M", "Q4_K_M", "v1.0", "hf.co/Org/M:Q4_K_M@v1.0"),
        ("hf.co/Org/M:look_at_", "Org/M", "look_at_", "main", "hf.co/Org/M:look_at_"),
        ("https://huggingface.co/Org/M", "Org/M", "", "main", "hf.co/Org/M"),
    ],
)
def test_a_reference_names_a_repository_a_choice_and_a_state(
    text: str, repository: str, selector: str, revision: str, shown: str
) -> None:
    found = read(text)
    assert found == HubReference(repository=repository, selector=selector, revision=revision)
    assert str(found) == shown


@pytest.mark.parametrize("repository", ["a/b/c", "a..b/c", "a/b.", "a/" + "b" * 97, "-a/b", "a/"])
def test_repositories_the_hub_cannot_have_are_refused(repository: str) -> None:
    with pytest.raises(InvalidReferenceError, match="named hf"):
        HubReference.of(repository, "latest")


@given(
    st.text(alphabet="abcXYZ019._-/", min_size=1, max_size=40),
    st.sampled_from(["", ":Q4_K_M", ":UD-Q4_K_XL", ":x_at", ":x_at_y"]),
)
def test_a_stored_name_leads_back_to_what_was_typed(revision: str, tag: str) -> None:
    try:
        typed = parse_reference(f"hf.co/Org/M{tag}@{revision}", POLICY)
    except InvalidReferenceError:
        reject()
    stored = parse_reference(typed.canonical, POLICY)
    assert stored == typed
    assert HubReference.of(stored.spelled, stored.tag).revision == revision
    assert read(f"hf.co/Org/M{tag}@{revision}").repository == "Org/M"


def test_only_addresses_of_the_hub_lose_their_scheme() -> None:
    assert without_scheme("HTTPS://HuggingFace.co/Org/M/") == "HuggingFace.co/Org/M"
    assert without_scheme("https://evil.example/hf.co/x") == "https://evil.example/hf.co/x"
    assert not is_hub_name("evil.example/hf.co/x")


def test_the_spelling_does_not_make_another_reference() -> None:
    first, second = (parse_reference(text, POLICY) for text in ("hf.co/Org/M", "hf.co/org/m"))
    assert first == second
    assert (first.spelled, second.spelled) == ("Org/M", "org/m")
    assert parse_reference("smollm2", POLICY).spelled == "ai/smollm2"
    assert parse_reference("Org/M", ReferencePolicy(default_registry="huggingface.co")).spelled == "Org/M"
