"""The service's settings: every variable, what flags change, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_cli.server import settings as module
from dmr_cli.server.settings import read_settings
from dmr_core.domain.capability import Dialect
from dmr_core.domain.digest import Digest
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import MemoryBudget
from dmr_core.domain.reference import ReferencePolicy
from dmr_core.domain.settings import Listen, Settings, TlsSettings
from dmr_core.errors import InvalidConfigurationError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    return tmp_path


def defaults(home: Path) -> Settings:
    return Settings(models_path=home / ".docker" / "models", docker_config=home / ".docker", max_runners=4)


def test_without_anything_set_the_defaults_hold(home: Path) -> None:
    assert defaults(home) == read_settings({})


TABLE: list[tuple[str, str, dict[str, Any]]] = [
    ("MODELS_PATH", "/srv/models", {"models_path": Path("/srv/models")}),
    ("MODEL_RUNNER_PORT", "13434", {"listen": Listen(port=13434)}),
    ("MODEL_RUNNER_PORT", "0", {"listen": Listen(port=0)}),
    ("MODEL_RUNNER_SOCK", "/run/dmr.sock", {"listen": Listen(socket=Path("/run/dmr.sock"))}),
    ("DMR_BIND", "::1", {"listen": Listen(host="::1")}),
    ("DMR_BIND", "localhost", {"listen": Listen(host="localhost")}),
    ("DMR_RUNTIME_DIR", "/run/dmr", {"runtime_dir": Path("/run/dmr")}),
    ("DEFAULT_REGISTRY", "registry.example", {"references": ReferencePolicy(default_registry="registry.example")}),
    ("INSECURE_REGISTRY", "true", {"all_registries_insecure": True}),
    ("INSECURE_REGISTRY", "1", {}),
    ("INSECURE_REGISTRY", "TRUE", {}),
    ("DMR_INSECURE_REGISTRIES", "a:5000, b ,,", {"insecure_registries": frozenset({"a:5000", "b"})}),
    ("MODEL_RUNNER_REGISTRY_MIRRORS", "https://m1,m2", {"registry_mirrors": ("https://m1", "m2")}),
    ("DOCKER_CONFIG", "/etc/docker", {"docker_config": Path("/etc/docker")}),
    ("HF_ENDPOINT", "https://hub.example/", {"hub_endpoint": "https://hub.example"}),
    ("DMR_DOCKER_HUB_URL", "http://127.0.0.1:8080", {"docker_hub": "http://127.0.0.1:8080"}),
    ("DMR_CA_CERT", "/etc/ssl/ours.pem", {"ca_cert": Path("/etc/ssl/ours.pem")}),
    ("DMR_ORIGINS", "http://a, http://b", {"allowed_origins": ("http://a", "http://b")}),
    ("DMR_ALLOW_UNAUTHENTICATED", "1", {"allow_unauthenticated": True}),
    ("DMR_ALLOW_UNAUTHENTICATED", "True", {"allow_unauthenticated": True}),
    ("DMR_ALLOW_UNAUTHENTICATED", "f", {}),
    ("DMR_ALLOW_UNAUTHENTICATED", "yes", {}),
    ("DMR_ALLOW_REMOTE_MEDIA", "1", {"allow_remote_media": True}),
    ("DMR_API_KEY_FILE", "/etc/dmr/key", {"api_key_file": Path("/etc/dmr/key")}),
    ("DMR_HOSTS", "llm.example, *.box", {"allowed_hosts": ("llm.example", "*.box")}),
    # These mean something only together with the first of them; see below.
    ("MODEL_RUNNER_TLS_ENABLED", "0", {}),
    ("MODEL_RUNNER_TLS_PORT", "1", {}),
    ("MODEL_RUNNER_TLS_CERT", "/c", {}),
    ("MODEL_RUNNER_TLS_KEY", "/k", {}),
    ("MODEL_RUNNER_TLS_AUTO_CERT", "0", {}),
    ("DMR_TLS_BIND", "0.0.0.0", {}),
    ("LOG_LEVEL", "DEBUG", {"log_level": "debug"}),
    ("LOG_LEVEL", "warn", {"log_level": "warning"}),
    ("LOG_LEVEL", "warning", {"log_level": "warning"}),
    ("LOG_LEVEL", "loud", {}),
    ("MODEL_RUNNER_LOG_DIR", "/var/log/dmr", {"log_dir": Path("/var/log/dmr")}),
    ("DISABLE_METRICS", "t", {"metrics": False}),
    ("DISABLE_METRICS", "0", {}),
    ("DMR_RECORD_REQUESTS", "0", {"record_requests": False}),
    ("DMR_RECORD_REQUESTS", "1", {}),
    ("DMR_MAX_BODY", "1024", {"max_body": 1024}),
    ("DMR_STRICT", "1", {"strict": True}),
    ("DMR_TRUST_CODE", f"sha256:{'a' * 64}, ", {"trusted_code": frozenset({Digest("a" * 64)})}),
    ("DMR_TRANSLATE", "Anthropic, responses", {"translate": frozenset({Dialect.ANTHROPIC, Dialect.RESPONSES})}),
    ("DMR_MAX_RUNNERS", "1", {"max_runners": 1}),
    ("DMR_MAX_MEMORY", "1.5GiB", {"memory": MemoryBudget(limit=3 << 29)}),
    ("DMR_MAX_MEMORY", "80%", {"memory": MemoryBudget(share=0.8)}),
    ("DMR_MAX_MEMORY", "off", {"memory": MemoryBudget(enforced=False)}),
    ("DMR_MAX_QUEUE", "9", {"max_queue": 9}),
    ("DMR_QUEUE_TIMEOUT", "1.5", {"queue_timeout": 1.5}),
    ("DMR_MAX_PULLS", "9", {"max_pulls": 9}),
    ("DMR_RESPONSES_TTL", "7d", {"responses_lifetime": 7 * 86400.0}),
    ("DMR_RESPONSES_TTL", "90m", {"responses_lifetime": 5400.0}),
    ("DMR_RESPONSES_TTL", "0", {"responses_lifetime": 0.0}),
    ("DMR_RESPONSES_TTL", "-1", {"responses_lifetime": math.inf}),
    ("DMR_RESPONSES_MAX_BYTES", "1MiB", {"responses_max_bytes": 1 << 20}),
    ("DMR_KEEP_ALIVE", "1h", {"keep_alive": KeepAlive(3600.0)}),
    ("DMR_KEEP_ALIVE", "0", {"keep_alive": KeepAlive(0.0)}),
    ("DMR_KEEP_ALIVE", "-1", {"keep_alive": KeepAlive.forever()}),
    ("DMR_START_TIMEOUT", "2.5", {"start_timeout": 2.5}),
    ("DMR_STOP_GRACE", "1e-1", {"stop_grace": 0.1}),
    ("DMR_HEALTH_INTERVAL", "0", {"health_interval": 0.0}),
    ("DMR_HEALTH_INTERVAL", "2", {"health_interval": 2.0}),
    ("DMR_DISABLED_PLUGINS", "nim,vllm", {"disabled_plugins": frozenset({"nim", "vllm"})}),
    ("DMR_OVERRIDE_GPU", "rocm", {"gpu_override": "rocm"}),
    ("SOMETHING_ELSE", "x", {}),
]


@pytest.mark.parametrize(("name", "text", "changes"), TABLE)
def test_each_variable_sets_its_own(home: Path, name: str, text: str, changes: Mapping[str, Any]) -> None:
    expected = attrs.evolve(defaults(home), environment={name: text}, **changes)

    assert expected == read_settings({name: text})
    quoted = read_settings({name: f' "{text}" '})
    assert attrs.evolve(expected, environment={name: f' "{text}" '}) == quoted


def test_requests_are_recorded_beyond_loopback_only_if_that_is_said() -> None:
    """Whoever can reach the service could read everybody's prompts."""
    open_to_all = {"DMR_BIND": "0.0.0.0", "DMR_ALLOW_UNAUTHENTICATED": "1"}

    assert not read_settings(open_to_all).record_requests
    assert read_settings({**open_to_all, "DMR_RECORD_REQUESTS": "1"}).record_requests
    assert read_settings({"MODEL_RUNNER_SOCK": "/run/x.sock"}).record_requests


@pytest.mark.parametrize(
    ("environ", "changes"),
    [
        ({}, {}),
        ({"MODEL_RUNNER_TLS_PORT": "1"}, {"port": 1}),
        ({"MODEL_RUNNER_TLS_PORT": "0"}, {"port": 0}),
        (
            {"MODEL_RUNNER_TLS_CERT": "/c", "MODEL_RUNNER_TLS_KEY": "/k", "MODEL_RUNNER_TLS_AUTO_CERT": "0"},
            {"certificate": Path("/c"), "key": Path("/k")},
        ),
        ({"DMR_TLS_BIND": "[::1]"}, {"host": "::1"}),
        ({"DMR_BIND": "127.0.0.2"}, {"host": "127.0.0.2"}),
        ({"DMR_BIND": "127.0.0.2", "DMR_TLS_BIND": "127.0.0.3"}, {"host": "127.0.0.3"}),
    ],
)
def test_the_tls_listener_is_asked_for_by_its_own_variables(
    home: Path, environ: Mapping[str, str], changes: Mapping[str, Any]
) -> None:
    expected = TlsSettings(directory=home / ".docker/model-runner/certs", **changes)

    assert expected == read_settings({"MODEL_RUNNER_TLS_ENABLED": "true", **environ}).tls


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"MODEL_RUNNER_TLS_CERT": "/c"}, "MODEL_RUNNER_TLS_KEY is not set"),
        ({"MODEL_RUNNER_TLS_KEY": "/k"}, "MODEL_RUNNER_TLS_CERT is not set"),
        ({"MODEL_RUNNER_TLS_AUTO_CERT": "0"}, "TLS enabled but no certificate provided and auto-cert is disabled"),
        ({"MODEL_RUNNER_TLS_PORT": "x"}, "a port is a number"),
    ],
)
def test_half_a_certificate_is_refused(environ: Mapping[str, str], problem: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=problem):
        read_settings({"MODEL_RUNNER_TLS_ENABLED": "1", **environ})


@pytest.mark.parametrize(
    "environ",
    [
        {"DMR_BIND": "0.0.0.0"},
        {"DMR_BIND": "::"},
        {"MODEL_RUNNER_TLS_ENABLED": "1", "DMR_TLS_BIND": "192.0.2.1"},
        {"MODEL_RUNNER_TLS_ENABLED": "1", "DMR_TLS_BIND": "0.0.0.0", "MODEL_RUNNER_SOCK": "/run/x.sock"},
    ],
)
def test_nobody_listens_beyond_loopback_without_a_key_by_accident(environ: Mapping[str, str]) -> None:
    with pytest.raises(InvalidConfigurationError, match="dmr key create FILE"):
        read_settings(environ)

    assert not read_settings({**environ, "DMR_API_KEY_FILE": "/key"}).loopback
    assert not read_settings({**environ, "DMR_ALLOW_UNAUTHENTICATED": "1"}).loopback
    assert not read_settings({**environ, "DMR_API_KEY_FILE": "/key"}).record_requests


def test_the_table_knows_every_variable() -> None:
    source = Path(module.__file__).read_text()
    read = set(re.findall(r'reader\.\w+\(\s*"([A-Z_]+)"', source))
    assert read | {"LOG_LEVEL"} == {name for name, *_ in TABLE} - {"SOMETHING_ELSE"}


@pytest.mark.parametrize("text", ["", "  ", '""', "' '"])
def test_what_is_set_to_nothing_is_not_set(home: Path, text: str) -> None:
    names = ("MODEL_RUNNER_PORT", "MODELS_PATH", "DMR_MAX_BODY", "DMR_KEEP_ALIVE", "DMR_ORIGINS", "DMR_OVERRIDE_GPU")
    environ = dict.fromkeys(names, text)

    assert attrs.evolve(defaults(home), environment=environ) == read_settings(environ)


def test_paths_are_expanded_and_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    read = read_settings({"MODELS_PATH": "~/models", "DMR_RUNTIME_DIR": "run"})

    assert (home / "models", home / "run") == (read.models_path, read.runtime_dir)


@pytest.mark.parametrize(("cores", "slots"), [(None, 2), (1, 2), (4, 4), (64, 8)])
def test_slots_follow_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int | None, slots: int) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)

    assert slots == read_settings({}).max_runners


# --- flags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "flags", "listen"),
    [
        ({"MODEL_RUNNER_PORT": "1"}, {"port": "2"}, Listen(port=2)),
        ({"MODEL_RUNNER_SOCK": "/a"}, {"socket": "/b"}, Listen(socket=Path("/b"))),
        ({"MODEL_RUNNER_PORT": "1"}, {"socket": "/b"}, Listen(socket=Path("/b"))),
        ({"MODEL_RUNNER_SOCK": "/a"}, {"port": "2"}, Listen(port=2)),
        ({"DMR_BIND": "0.0.0.0"}, {"bind": "::1"}, Listen(host="::1")),
        ({"MODEL_RUNNER_PORT": "1", "MODEL_RUNNER_SOCK": "/a"}, {}, Listen(port=1)),
        ({"MODEL_RUNNER_PORT": "1"}, {"port": None, "socket": None, "bind": None}, Listen(port=1)),
    ],
)
def test_flags_win_over_the_environment(environ: dict[str, str], flags: dict[str, str | None], listen: Listen) -> None:
    assert listen == read_settings(environ, socket_default=False, **flags).listen


def test_the_models_path_may_be_a_flag() -> None:
    assert read_settings({"MODELS_PATH": "/a"}, models_path="/b").models_path == Path("/b")


def test_a_flag_that_is_wrong_is_named_as_a_flag() -> None:
    with pytest.raises(InvalidConfigurationError, match="--port='x': a port is a number from 0 to 65535"):
        read_settings({"MODEL_RUNNER_PORT": "1"}, port="x")


# --- the model-runner program -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "listen"),
    [
        ({}, None),
        ({"MODEL_RUNNER_SOCK": "/run/x.sock"}, Listen(socket=Path("/run/x.sock"))),
        ({"MODEL_RUNNER_PORT": "13434"}, Listen(port=13434)),
        ({"MODEL_RUNNER_PORT": "13434", "MODEL_RUNNER_SOCK": "/run/x.sock"}, Listen(port=13434)),
    ],
)
def test_model_runner_listens_on_a_socket_unless_it_is_given_a_port(
    home: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], listen: Listen | None
) -> None:
    monkeypatch.chdir(home)

    assert (listen or Listen(socket=home / "model-runner.sock")) == read_settings(environ, socket_default=True).listen


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("MODEL_RUNNER_PORT", "65536", "a port is a number from 0 to 65535"),
        ("MODEL_RUNNER_PORT", "-1", "a port is a number from 0 to 65535"),
        ("MODEL_RUNNER_PORT", "http", "a port is a number from 0 to 65535"),
        ("DMR_MAX_BODY", "0", "expected a number of at least 1"),
        ("DMR_TRANSLATE", "latin", "use some of openai, anthropic, responses, ollama, separated by commas"),
        ("DMR_TRUST_CODE", "demo", "unsupported hash"),
        ("DMR_MAX_BODY", "10MB", "expected a number of at least 1"),
        ("DMR_RESPONSES_TTL", "a week", "expected a time such as '30d'"),
        ("DMR_RESPONSES_TTL", "nand", "expected a time such as '30d'"),
        ("DMR_RESPONSES_MAX_BYTES", "80%", "expected bytes with a unit"),
        ("DMR_MAX_RUNNERS", "-3", "expected a number of at least 1"),
        ("DMR_MAX_MEMORY", "lots", "'lots' is no amount of memory: use bytes with a unit, such as 8GiB"),
        ("DMR_MAX_PULLS", "1.5", "expected a number of at least 1"),
        ("DMR_KEEP_ALIVE", "soon", "invalid keep_alive duration 'soon'"),
        ("DMR_START_TIMEOUT", "0", "expected a number of seconds greater than 0"),
        ("DMR_START_TIMEOUT", "nan", "expected a number of seconds greater than 0"),
        ("DMR_START_TIMEOUT", "inf", "expected a number of seconds greater than 0"),
        ("DMR_STOP_GRACE", "long", "could not convert string to float"),
        ("HF_ENDPOINT", "hub.example", "expected an address such as https://hub.example.com"),
        ("HF_ENDPOINT", "ftp://hub.example", "expected an address"),
        ("HF_ENDPOINT", "https://hub.example:many", "Port could not be cast"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, text: str, complaint: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        read_settings({name: text})
    assert caught.value.message.startswith(f"invalid settings:\n  {name}={text!r}: {complaint}")


def test_all_problems_are_told_together() -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        read_settings({"DMR_MAX_BODY": "x", "DMR_KEEP_ALIVE": "y", "DMR_STOP_GRACE": "-1"}, port="z", bind="0.0.0.0")
    assert [line.partition(":")[0].strip() for line in caught.value.message.splitlines()] == [
        "invalid settings",
        "--port='z'",
        "DMR_KEEP_ALIVE='y'",
        "DMR_MAX_BODY='x'",
        "DMR_STOP_GRACE='-1'",
        "listening on '0.0.0.0' lets anyone who can reach it use this service",
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_listening_to_the_world_must_be_meant(host: str) -> None:
    for environ, flags in (({"DMR_BIND": host}, {}), ({}, {"bind": host})):
        with pytest.raises(InvalidConfigurationError, match="set DMR_ALLOW_UNAUTHENTICATED=1 if that is meant"):
            read_settings(environ, socket_default=False, **flags)
        allowed = read_settings({**environ, "DMR_ALLOW_UNAUTHENTICATED": "1"}, socket_default=False, **flags)
        assert Listen(host=host) == allowed.listen


def test_a_socket_is_nobody_elses_whatever_the_address() -> None:
    read = read_settings({"DMR_BIND": "0.0.0.0", "MODEL_RUNNER_SOCK": "/run/x.sock"})

    assert str(read.listen) == "unix:///run/x.sock"


def test_secrets_of_the_environment_are_not_shown() -> None:
    assert "hunter2" not in repr(read_settings({"DOCKER_PASSWORD": "hunter2"}))


@pytest.mark.parametrize(
    ("listen", "text"),
    [
        (Listen(), "http://127.0.0.1:12434"),
        (Listen(host="::1", port=1), "http://[::1]:1"),
        (Listen(socket=Path("/run/x.sock")), "unix:///run/x.sock"),
    ],
)
def test_where_the_service_listens_is_told_as_a_url(listen: Listen, text: str) -> None:
    assert text == str(listen)


def test_a_login_in_an_address_is_not_shown() -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        read_settings({"HF_ENDPOINT": "https://user:secret@hub.example"})
    assert "secret" not in caught.value.message
    assert "https://***@hub.example" in caught.value.message
