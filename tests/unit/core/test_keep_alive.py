"""Keep-alive times, in Go's notation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import InvalidConfigurationError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5m", "5m0s"),
        ("0", "0s"),
        ("0s", "0s"),
        ("1h30m", "1h30m0s"),
        ("1.5h", "1h30m0s"),
        ("90s", "1m30s"),
        ("300ms", "300ms"),
        ("1h", "1h0m0s"),
        ("-1", "-1"),
        ("-1m", "-1"),
        (" 10m ", "10m0s"),
    ],
)
def test_durations_print_as_go_prints_them(text: str, shown: str) -> None:
    assert shown == str(KeepAlive.parse(text))


@pytest.mark.parametrize("text", ["", "x", "10", "5 m", "m5", "1h-5m", "9999999999h", "--1m", "1e5s"])
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidConfigurationError, match="use a duration such as"):
        KeepAlive.parse(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_what_is_printed_parses_back(milliseconds: int) -> None:
    keep_alive = KeepAlive(milliseconds / 1000)

    assert KeepAlive.parse(str(keep_alive)).seconds == pytest.approx(keep_alive.seconds)
