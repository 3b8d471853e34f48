"""What ``dmr configure show --explain`` says against the command line of the real engine's process."""

from __future__ import annotations

import json
import urllib.request
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Daemon
from tests.explaining import PATHS, Case, Use, check_bundled, check_settings, expected_claims

WEIGHTS = Path(str(resources.files("dmr_cli.demo"))) / "model" / "demo.gguf"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"

EVERYBODY = Case(
    packaged=128,
    layers=frozenset({"template"}),
    llama_args=(Use("-c", "4096"), Use("--temperature", "1.5"), Use("-ngl", "0"), Use("--no-mmap", None)),
    keep_alive_variable="30m",
    configuration={"context-size": 512, "llamacpp": {"reasoning-budget": 0}, "keep_alive": "2h", "max-concurrency": 1},
    flags=(Use("--ctx-size", "256"), Use("--temp", "0.2"), Use("--reasoning-budget", "77"), Use("-cram", "64")),
    raw=True,
    keep_alive_in_request="1h",
)
EMBEDDING = Case(
    mode="embedding",
    packaged=128,
    llama_args=(Use("--pooling", "cls"), Use("--ctx-size", "256")),
    flags=(Use("--seed", "-1"), Use("--no-jinja", None)),
    mode_flag="--embeddings",
    keep_alive_variable="-1",
)
DRAFTED = Case(
    packaged=128,
    configuration={
        "speculative": {"draft_model": "ai/draft", "num_tokens": 4, "min_acceptance_rate": 0.5},
        "context-size": -1,
    },
    flags=(Use("--draft-max", "9"), Use("--chat-template", "chatml")),
    layers=frozenset({"template"}),
    keep_alive_in_request=40,
)


def ask(daemon: Daemon, path: str, body: object) -> int:
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
        return int(answer.status)


def package(daemon: Daemon, case: Case, directory: Path) -> None:
    template = directory / "template.jinja"
    template.write_text(TEMPLATE)
    options = ["--gguf", str(WEIGHTS)]
    if case.packaged is not None:
        options += ["--context-size", str(case.packaged)]
    if "template" in case.layers:
        options += ["--chat-template", str(template)]
    daemon.cli("package", *options, "ai/one")
    daemon.cli("package", "--gguf", str(WEIGHTS), "--context-size", "64", "ai/draft")


def names_of_files(daemon: Daemon, words: list[str]) -> dict[str, str]:
    """What the files of the models are called by those who made them."""
    names = {str(path): "TEMPLATE" for path in Path(daemon.environment["MODELS_PATH"]).rglob("model/template.jinja")}
    if "--model-draft" in words:
        draft = Path(words[words.index("--model-draft") + 1])
        assert draft.is_relative_to(daemon.environment["MODELS_PATH"])
        assert draft.read_bytes() == WEIGHTS.read_bytes()
        assert str(draft) != words[words.index("--model") + 1]
        names[str(draft)] = "ai/draft"
    return names


@pytest.mark.parametrize("case", [EVERYBODY, EMBEDDING, DRAFTED], ids=["everybody", "embedding", "drafted"])
def test_what_explain_says_is_what_the_process_runs_with(daemon: Daemon, tmp_path: Path, case: Case) -> None:
    daemon.environment |= case.environment
    daemon.start()
    package(daemon, case, tmp_path)
    show = ("configure", "show", "--explain", "--mode", case.mode, "ai/one")
    assert ask(daemon, "/engines/_configure", case.body) == 202
    asked: dict[str, Any] = {"model": "ai/one", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi"}
    asked["max_tokens"] = 1
    if case.keep_alive_in_request is not None:
        asked["keep_alive"] = case.keep_alive_in_request
    assert ask(daemon, PATHS[case.mode], asked) == 200

    found = json.loads(daemon.cli(*show, "--json").stdout)
    (running,) = found["running"]
    actual = Path(f"/proc/{running['pid']}/cmdline").read_text().rstrip("\0").split("\0")
    assert (running["argv"], running["restart_pending"]) == (actual, False)
    host = actual[actual.index("--host") + 1]
    assert [host if word == "SOCKET" else word for word in found["argv"]] == actual
    names = names_of_files(daemon, actual)
    check_settings(found, expected_claims(case, running=True), names, case)
    check_bundled(found, actual, names)

    rows = daemon.cli(*show).stdout.decode().split("\n\n")[1].splitlines()
    assert rows[0].split() == ["SETTING", "VALUE", "SOURCE", "INSTEAD", "OF"]
    shown = {row.split()[0] for row in rows[1:] if not row.startswith(" ")}
    assert shown == {setting["name"] for setting in found["settings"]}
