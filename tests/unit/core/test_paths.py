"""Relative paths never leave the directory they are joined to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.paths import RelativePath
from dmr_core.errors import MalformedArtifactError


@pytest.mark.parametrize(
    ("text", "normal"),
    [("a", "a"), ("a/b.gguf", "a/b.gguf"), ("a//b", "a/b"), ("./a/./b", "a/b"), (".hidden", ".hidden")],
)
def test_ordinary_paths_are_normalised(text: str, normal: str) -> None:
    assert normal == str(RelativePath.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "./",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a/..",
        "a\\b",
        "C:x",
        "c:/x",
        "a\0b",
        "a\nb",
        "x" * 300,
        "a/" * 3000,
    ],
)
def test_paths_that_could_climb_or_confuse_are_refused(text: str) -> None:
    with pytest.raises(MalformedArtifactError):
        RelativePath.parse(text)


@given(st.text(alphabet=st.sampled_from("./ab\\~\0 -:"), max_size=30))
def test_whatever_parses_stays_below_its_root(text: str) -> None:
    try:
        path = RelativePath.parse(text)
    except MalformedArtifactError:
        return
    root = Path("/srv/model")
    assert path.under(root).resolve().is_relative_to(root)
    assert path.under(root) != root
