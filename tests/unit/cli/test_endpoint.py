"""Reading an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_cli.client.endpoint import resolve
from dmr_cli.client.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://example.com", "http://example.com:80"),
        ("https://example.com/base/", "https://example.com:443/base"),
        ("HTTP://h:1", "http://h:1"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("box", "http://box:12434"),
        ("[::1]:12434", "http://[::1]:12434"),
        ("http://[fe80::1]", "http://[fe80::1]:80"),
        ("unix:///run/dmr.sock", "unix:///run/dmr.sock"),
        (" http://h:1 ", "http://h:1"),
    ],
)
def test_forms_of_an_address(text: str, url: str) -> None:
    assert url == resolve(text, {}).url
    assert url == resolve(None, {"MODEL_RUNNER_HOST": text}).url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://h",
        "http://",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "::1:80",
        "[::1",
        "[::1]x",
        "http://user@h",
        "http://h/?q",
        "http://h h",
        "unix://relative",
        "unix:/one",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="--host"):
        resolve(text, {})


def test_without_anything_it_is_the_port_of_dmr_serve() -> None:
    assert resolve(None, {"MODEL_RUNNER_HOST": ""}).url == "http://127.0.0.1:12434"


def test_the_flag_wins_over_the_environment() -> None:
    assert resolve("flag:1", {"MODEL_RUNNER_HOST": "http://env:2"}).url == "http://flag:1"


def test_the_tls_variable_turns_any_address_into_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    default = resolve(None, {"MODEL_RUNNER_TLS": "true"})
    given = resolve("http://h:1", {"MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_TLS_CA_CERT": "/ca.pem"})
    unverified = resolve("h:1", {"MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_TLS_SKIP_VERIFY": "true"})

    assert (
        default.url,
        default.ca_file,
        default.verify,
    ) == ("https://127.0.0.1:12444", "/home/someone/.docker/model-runner/certs/ca.crt", True)
    assert (given.url, given.ca_file) == ("https://h:1", "/ca.pem")
    assert (unverified.url, unverified.ca_file, unverified.verify) == ("https://h:1", "", False)


def test_the_tls_variables_count_only_when_exactly_true() -> None:
    endpoint = resolve("https://h", {"MODEL_RUNNER_TLS": "1", "MODEL_RUNNER_TLS_SKIP_VERIFY": "TRUE"})

    assert (endpoint.tls, endpoint.ca_file, endpoint.verify) == (True, "", True)
    assert not resolve("h:1", {"MODEL_RUNNER_TLS": "yes"}).tls


# --- the key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:1", "localhost", "http://[::1]:1", "unix:///run/x.sock", "https://far.example"]
)
def test_the_key_goes_where_nobody_can_read_along(host: str) -> None:
    assert resolve(host, {"DMR_API_KEY": " dmr_abc "}).api_key == "dmr_abc"


@pytest.mark.parametrize("host", ["http://far.example", "192.0.2.1:12434", "127.0.0.1.evil.example", "127.evil"])
def test_the_key_does_not_cross_a_network_in_the_clear(host: str) -> None:
    with pytest.raises(InvalidInputError, match="in the clear"):
        resolve(host, {"DMR_API_KEY": "dmr_abc"})

    assert resolve(host, {"DMR_API_KEY": "dmr_abc", "DMR_SEND_KEY_IN_CLEAR": "1"}).api_key == "dmr_abc"
    assert not resolve(host, {}).api_key


def test_the_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("dmr_abc\n")
    environ = {"DMR_CLIENT_KEY_FILE": str(file)}

    assert resolve(None, environ).api_key == "dmr_abc"
    assert resolve(None, {**environ, "DMR_API_KEY": "dmr_def"}).api_key == "dmr_def"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# The hash\nsha256:00\n", "holds a hash"),
        ("sha256:00\n", "holds a hash"),
        ("two words", "is no key"),
        ("k\nX-Evil: 1", "is no key"),
        ("k" * 600, "is no key"),
        ("ключ", "is no key"),
        (None, "No such file"),
    ],
)
def test_what_is_no_key_is_not_sent(tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidInputError, match=problem) as caught:
        resolve(None, {"DMR_CLIENT_KEY_FILE": str(file)})

    assert text is None or text not in caught.value.message
