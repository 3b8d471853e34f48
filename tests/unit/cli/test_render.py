"""Tables, sizes, times, JSON, and what may reach a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from dmr_cli.client import render, terminal
from dmr_cli.client.names import display, matches


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_pads_every_column_but_the_last() -> None:
    assert render.table(("A", "LONG"), [("x", "1"), ("wide one", "")]) == ["A         LONG", "x         1", "wide one"]


def test_a_table_counts_columns_not_characters() -> None:
    assert render.table(("A", "B"), [("模型", "1"), ("e\u0301", "2")]) == ["A     B", "模型  1", "e\u0301     2"]


def test_a_cell_of_several_lines_spans_rows_and_tabs_become_spaces() -> None:
    assert render.table(("A", "B"), [("1\n2", "x\ty"), (None, 0)]) == ["A  B", "1  x    y", "2", "   0"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.00B"), (999, "999.00B"), (1500, "1.50kB"), (256_350_000, "256.35MB"), (10**27, "1000.00YB")],
)
def test_size(count: float, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5300, "About an hour"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_json_survives_what_cannot_be_encoded(capsys: pytest.CaptureFixture[str]) -> None:
    render.echo_json({"a": "<é>\ud800"})

    assert capsys.readouterr().out == '{\n  "a": "<é>\\ud800"\n}\n'


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain ünï\n\tcode", "plain ünï\n\tcode"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("\x1bPq\x1bx\x1b\\after", "after"),
        ("\x90dcs\x9cafter", "after"),
        ("\x1b(Bafter\x1bcend", "afterend"),
        ("a\r\x08\x7fb", "ab"),
    ],
)
def test_control_sequences_are_taken_out(text: str, safe: str) -> None:
    assert terminal.clean(text) == safe
    spread = terminal.ControlFilter()
    assert "".join(spread.feed(character) for character in text) == safe


def test_a_terminal_gets_text_without_control_sequences_a_pipe_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((_Terminal(), "x\n"), (io.StringIO(), "\x1b[1mx\n")):
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.write("\x1b[1mx\n")
        assert stream.getvalue() == expected


def test_no_stream_is_no_terminal() -> None:
    closed = io.StringIO()
    closed.close()

    assert not terminal.is_terminal(None)
    assert not terminal.is_terminal(closed)


def test_names_are_shortened_for_the_default_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_REGISTRY", "registry.local:5000")

    assert display("registry.local:5000/ai/x:latest") == "x"
    assert display("docker.io/ai/x:latest") == "docker.io/ai/x"


@pytest.mark.parametrize(
    ("typed", "tag", "named"),
    [
        ("hf.co/Org/M:Q8_0@v1.0", "huggingface.co/org/m:Q8_0_at_v1.0", True),
        ("hf.co/org/m@refs/pr/1", "huggingface.co/org/m:latest_at_refs__pr__1", True),
        ("hf.co/org/m@main", "huggingface.co/org/m:latest", True),
        ("hf.co/org/m@v1.0", "huggingface.co/org/m:latest", False),
        ("evil.co/org/m@v1.0", "evil.co/org/m:latest_at_v1.0", False),
    ],
)
def test_a_revision_of_hugging_face_is_found_in_the_stored_name(typed: str, tag: str, named: bool) -> None:
    assert matches(typed, "sha256:" + "0" * 64, tag) is named
