"""The official ``ollama`` client, unmodified: every method of it, against the real engine."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import math
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.conftest import require
from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_main_job import QUESTIONS
from tests.stand_ins.fim_model import fim_model
from tests.stand_ins.oci_registry import docker_registry
from tests.stand_ins.tool_template import package_with_tools

MODEL = "dmr/demo"
QUESTION, ANSWER = QUESTIONS[0]["question"], QUESTIONS[0]["answer"]
GREEDY = {"temperature": 0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Bonn", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
CITY: dict[str, Any] = {"type": "string", "enum": ["Bonn", "Rome"]}  # in which no blanks may go on for ever
GGUF = Path(str(files("dmr_cli.demo") / "model" / "demo.gguf"))
CHATML = "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("ollama")
    daemon = Daemon(root, daemon_environment(root))
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def client(served: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(host=served.url) as made:
        yield made


def said(content: str = QUESTION) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def check_figures(answer: Any) -> None:
    """Counts and durations, in nanoseconds, that can be true."""
    assert answer.prompt_eval_count > 5
    assert answer.eval_count > 2
    assert 0 < answer.prompt_eval_duration < answer.total_duration
    assert 0 < answer.eval_duration < answer.total_duration
    assert 0 <= answer.load_duration < answer.total_duration
    assert datetime.fromisoformat(answer.created_at).tzinfo is not None


# --- chat


@pytest.mark.parametrize("name", [MODEL, "dmr/demo:latest", "docker.io/dmr/demo"])
def test_chat(client: ollama.Client, name: str) -> None:
    answer = client.chat(name, said(), options=GREEDY)

    assert (ANSWER, "assistant", name) == (answer.message.content, answer.message.role, answer.model)
    assert (True, "stop") == (answer.done, answer.done_reason)
    check_figures(answer)


def test_streamed_chat(client: ollama.Client) -> None:
    lines = list(client.chat(MODEL, said(), options=GREEDY, stream=True))

    assert ANSWER == "".join(line.message.content or "" for line in lines)
    assert len(lines) > 5
    assert [False] * (len(lines) - 1) + [True] == [line.done for line in lines]
    assert (lines[-1].message.content, lines[-1].done_reason) == ("", "stop")
    assert all(line.done_reason is None for line in lines[:-1])
    check_figures(lines[-1])


def test_an_answer_that_is_cut_says_so(client: ollama.Client) -> None:
    answer = client.chat(MODEL, said(), options={"num_predict": 3, "seed": 1})
    assert ("length", 3) == (answer.done_reason, answer.eval_count)


def test_options_reach_the_engine(client: ollama.Client) -> None:
    stopped = client.chat(MODEL, said(), options={**GREEDY, "stop": ANSWER.split()[1]})
    assert ANSWER.split()[0] == (stopped.message.content or "").strip()
    drawn = [
        client.chat(MODEL, said("zz"), options={"temperature": 5, "seed": seed, "num_predict": 20}).message.content
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_kept_to(client: ollama.Client, stream: bool) -> None:
    if stream:
        text = "".join(
            x.message.content or "" for x in client.chat(MODEL, said(), format=SCHEMA, options=GREEDY, stream=True)
        )
    else:
        text = client.chat(MODEL, said(), format=SCHEMA, options=GREEDY).message.content or ""
    assert json.loads(text)["city"] in ("Bonn", "Rome")
    put, raw = QUESTION, CHATML.split("{{ .R", maxsplit=1)[0].replace("{{ .Prompt }}", QUESTION)
    put_in = client.generate(MODEL, put, format=CITY, options=GREEDY).response
    ready = client.generate(MODEL, raw, format=CITY, raw=True, options=GREEDY).response
    assert {json.loads(put_in or ""), json.loads(ready or "")} <= {"Bonn", "Rome"}


def test_format_json(client: ollama.Client) -> None:
    answer = client.chat(MODEL, said(), format="json", options={"num_predict": 30, **GREEDY})
    assert (answer.message.content or "").lstrip().startswith(("{", "["))


def test_log_probabilities(client: ollama.Client) -> None:
    answer = client.chat(MODEL, said(), logprobs=True, top_logprobs=2, options={**GREEDY, "num_predict": 2})
    assert answer.logprobs is not None
    assert answer.message.content == "".join(entry.token for entry in answer.logprobs)
    assert all(entry.logprob <= 0 and len(entry.top_logprobs or ()) == 2 for entry in answer.logprobs)
    lines = list(client.generate(MODEL, "Hello", logprobs=True, raw=True, options={"num_predict": 2}, stream=True))
    assert sum(len(line.logprobs or ()) for line in lines) == 2


@pytest.fixture(scope="module")
def tooled(served: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    return package_with_tools(served, tmp_path_factory.mktemp("template"))


def weather(city: str) -> str:
    """The weather.

    Args:
      city: where
    """
    return city


def test_tools_offered_and_answered(client: ollama.Client, tooled: str) -> None:
    """The bundled model does not call of its own accord, so what it would have said is put into its mouth."""
    call = {"function": {"name": "weather", "arguments": {"city": "Bonn"}}}
    messages: list[Any] = [
        *said("Weather?"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]
    answer = client.chat(tooled, messages, tools=[weather], options={**GREEDY, "num_predict": 10})
    assert answer.message.content or answer.message.tool_calls


def test_think_is_passed_on_and_named_where_the_model_cannot(served: Daemon, client: ollama.Client) -> None:
    assert client.chat(MODEL, said(), think=True, options=GREEDY).message.content == ANSWER
    assert client.chat(MODEL, said(), think="high", options=GREEDY).message.thinking is None
    _, headers, _ = ask(
        served, "POST", "/api/chat", {"model": MODEL, "messages": said(), "think": True, "stream": False}
    )
    assert headers["dmr-ignored"] == "think"
    with pytest.raises(ollama.ResponseError, match="invalid think value"):
        client.chat(MODEL, said(), think="very")


def test_an_image_for_a_model_without_eyes_is_refused(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="image input is not supported") as caught:
        client.chat(MODEL, [{"role": "user", "content": "What?", "images": [base64.b64decode("iVBORw0KGgo=")]}])
    assert caught.value.status_code == 400


def test_a_prompt_that_is_too_long_is_refused_not_cut(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="exceeds the available context size") as caught:
        client.chat(MODEL, said("word " * 2000))
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError):
        list(client.chat(MODEL, said("word " * 2000), stream=True))


# --- generate


@pytest.mark.parametrize("stream", [False, True])
def test_generate(client: ollama.Client, stream: bool) -> None:
    if stream:
        lines = list(client.generate(MODEL, QUESTION, options=GREEDY, stream=True))
        text, last = "".join(line.response or "" for line in lines), lines[-1]
    else:
        last = client.generate(MODEL, QUESTION, options=GREEDY)
        text = last.response or ""
    assert (ANSWER, "stop") == (text, last.done_reason)
    assert last.context
    check_figures(last)


def test_a_conversation_goes_on_from_its_context(client: ollama.Client) -> None:
    first = client.generate(MODEL, QUESTION, options=GREEDY)
    second = client.generate(MODEL, QUESTION, context=first.context, options=GREEDY)
    assert first.context is not None
    assert second.context is not None
    assert (second.prompt_eval_count or 0) > len(first.context)
    assert list(second.context[: len(first.context)]) == list(first.context)
    assert second.response


def test_raw_template_and_system(client: ollama.Client) -> None:
    raw = client.generate(
        MODEL, CHATML.split("{{ .R", maxsplit=1)[0].replace("{{ .Prompt }}", QUESTION), raw=True, options=GREEDY
    )
    assert (ANSWER, None) == (raw.response, raw.context)
    assert client.generate(MODEL, QUESTION, template=CHATML, options=GREEDY).response == ANSWER
    with_system = client.generate(MODEL, QUESTION, system="You are kind.", options={**GREEDY, "num_predict": 1})
    without = client.generate(MODEL, QUESTION, options={**GREEDY, "num_predict": 1})
    assert (with_system.prompt_eval_count or 0) > (without.prompt_eval_count or 0)
    with pytest.raises(ollama.ResponseError, match="raw mode does not support"):
        client.generate(MODEL, "x", raw=True, system="y")
    with pytest.raises(ollama.ResponseError, match="invalid template"):
        client.generate(MODEL, "x", template="{{ nonsense }}")


def test_a_suffix_is_filled_in_where_the_model_can(client: ollama.Client, tmp_path: Path) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support insert") as caught:
        client.generate(MODEL, "Hello", suffix="world")
    assert caught.value.status_code == 400
    (tmp_path / "fim.gguf").write_bytes(fim_model(GGUF))
    digest = client.create_blob(tmp_path / "fim.gguf")
    client.create("my/fim", files={"fim.gguf": digest})
    assert "insert" in (client.show("my/fim").capabilities or ())
    whole = client.generate("my/fim", "Hello", suffix="world", options={**GREEDY, "num_predict": 4})
    lines = list(client.generate("my/fim", "Hello", suffix="world", options={**GREEDY, "num_predict": 4}, stream=True))
    assert whole.response == "".join(line.response or "" for line in lines)
    assert (whole.done_reason, whole.eval_count, lines[-1].eval_count) == ("length", 4, 4)


def test_nothing_said_loads_and_unloads(client: ollama.Client) -> None:
    client.generate(MODEL, keep_alive=0)
    assert MODEL not in [runner.model for runner in client.ps().models]
    loaded = client.generate(MODEL, keep_alive="10m")
    assert (True, "load", "") == (loaded.done, loaded.done_reason, loaded.response)
    (runner,) = [runner for runner in client.ps().models if runner.model == MODEL]
    assert runner.expires_at is not None
    assert 590 < (runner.expires_at - datetime.now(UTC)).total_seconds() <= 601
    assert (runner.size or 0) > 1_000_000
    assert runner.context_length == 1024
    assert client.chat(MODEL, [], keep_alive=-1).done_reason == "load"
    (runner,) = [runner for runner in client.ps().models if runner.model == MODEL]
    assert runner.expires_at is not None
    assert runner.expires_at.year == 1
    assert client.chat(MODEL, [], keep_alive=0).done_reason == "unload"
    assert MODEL not in [runner.model for runner in client.ps().models]


# --- embeddings


def test_embed(client: ollama.Client) -> None:
    one, several = client.embed(MODEL, "Hello!"), client.embed(MODEL, ["Hello!", "What is dmr?"])
    assert len(one.embeddings) == 1
    assert [128, 128] == [len(vector) for vector in several.embeddings]
    assert all(map(math.isclose, one.embeddings[0], several.embeddings[0]))
    assert (several.prompt_eval_count or 0) > (one.prompt_eval_count or 0) > 0
    assert several.total_duration
    short = client.embed(MODEL, "Hello!", dimensions=16).embeddings[0]
    assert len(short) == 16
    assert math.isclose(sum(value * value for value in short), 1.0, rel_tol=1e-6)
    assert list(client.embeddings(MODEL, "Hello!").embedding) == list(one.embeddings[0])
    assert list(client.embed(MODEL, []).embeddings) == []


def test_what_is_too_long_to_embed_is_cut_unless_that_is_not_wanted(served: Daemon, client: ollama.Client) -> None:
    cut = client.embed(MODEL, ["hello " * 3000, "Hello!"])
    assert [128, 128] == [len(vector) for vector in cut.embeddings]
    _, headers, _ = ask(served, "POST", "/api/embed", {"model": MODEL, "input": "hello " * 3000})
    assert headers["dmr-clamped"].startswith("input=512")
    with pytest.raises(ollama.ResponseError, match="too large") as caught:
        client.embed(MODEL, "hello " * 3000, truncate=False)
    assert caught.value.status_code == 400


# --- models


def test_list_and_show(client: ollama.Client) -> None:
    (listed,) = [model for model in client.list().models if model.model == "docker.io/dmr/demo:latest"]
    assert (listed.size or 0) > 1_000_000
    assert len(listed.digest or "") == 64
    assert listed.modified_at is not None
    assert abs((datetime.now(UTC) - listed.modified_at).total_seconds()) < 3600
    shown = client.show(MODEL)
    assert shown.details is not None
    assert ("gguf", "llama", "F16") == (shown.details.format, shown.details.family, shown.details.quantization_level)
    assert shown.modelinfo is not None
    assert ("llama", 1024) == (shown.modelinfo["general.architecture"], shown.modelinfo["llama.context_length"])
    assert shown.modelinfo["general.parameter_count"] > 100_000
    assert "im_start" in (shown.template or "")
    assert (shown.modelfile or "").startswith("# Modelfile")
    assert "completion" in (shown.capabilities or ())


@pytest.mark.parametrize("stream", [False, True])
def test_pull(client: ollama.Client, stream: bool) -> None:
    if stream:
        lines = [line.status for line in client.pull(MODEL, stream=True)]
        assert ("pulling manifest", "success") == (lines[0], lines[-1])
    else:
        assert client.pull(MODEL).status == "success"
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.pull("localhost:1/ai/nothing", stream=True))
    assert caught.value.status_code == 502


def test_copy_and_delete(client: ollama.Client) -> None:
    assert client.copy(MODEL, "my/copy").status == "success"
    assert client.chat("my/copy", said(), options=GREEDY).message.content == ANSWER
    assert client.delete("my/copy").status == "success"
    for attempt in (client.delete, client.show, lambda name: client.copy(name, "x"), client.push):
        with pytest.raises(ollama.ResponseError, match="'my/copy' not found") as caught:
            attempt("my/copy")
        assert caught.value.status_code == 404
    assert MODEL in [
        model.model.removeprefix("docker.io/").removesuffix(":latest") for model in client.list().models if model.model
    ]


def test_create_from_a_model(client: ollama.Client) -> None:
    client.create(
        "my/pirate",
        from_=MODEL,
        system="You are a pirate.",
        parameters={"num_predict": 3, "temperature": 0, "stop": ["zz"]},
        license=["MIT", "or another"],
        messages=[{"role": "user", "content": "Ahoy"}, {"role": "assistant", "content": "Arr"}],
    )
    shown = client.show("my/pirate")
    assert "MIT\nor another" == shown.license
    assert "You are a pirate." in (shown.modelfile or "")
    assert "num_predict                    3" in (shown.parameters or "")
    answer = client.chat("my/pirate", said())
    assert (3, "length") == (answer.eval_count, answer.done_reason)
    plain = client.chat(MODEL, said(), options=GREEDY)
    assert (answer.prompt_eval_count or 0) > (plain.prompt_eval_count or 0) + 10
    assert client.chat("my/pirate", said(), options={"num_predict": 2}).eval_count == 2

    client.create("my/captain", from_="my/pirate", system="You are a captain.")
    assert "captain" in (client.show("my/captain").modelfile or "")
    assert client.chat("my/captain", said()).eval_count == 3
    for name in ("my/pirate", "my/captain"):
        client.delete(name)


def test_create_with_templates(client: ollama.Client) -> None:
    client.create("my/go", from_=MODEL, template=CHATML)
    assert client.chat("my/go", said(), options=GREEDY).message.content == ANSWER
    assert client.generate("my/go", QUESTION, options=GREEDY).response == ANSWER
    assert client.show("my/go").template == CHATML
    jinja = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    client.create("my/jinja", from_=MODEL, template=jinja)
    assert client.chat("my/jinja", said(), options=GREEDY).message.content == ANSWER
    assert client.show("my/jinja").template == jinja
    with pytest.raises(ollama.ResponseError, match="invalid template"):
        client.create("my/wrong", from_=MODEL, template="{{ if }}")


def test_create_from_a_file(served: Daemon, client: ollama.Client) -> None:
    expected = "sha256:" + hashlib.sha256(GGUF.read_bytes()).hexdigest()
    digest = client.create_blob(GGUF)
    assert expected == digest
    assert ask(served, "HEAD", f"/api/blobs/{digest}")[0] == 200
    statuses = [line.status for line in client.create("my/file", files={"demo.gguf": digest}, stream=True)]
    assert statuses[-1] == "success"
    assert client.chat("my/file", said(), options=GREEDY).message.content == ANSWER
    assert client.show("my/file").details == client.show(MODEL).details


def test_a_blob_that_is_not_what_it_says_leaves_nothing(served: Daemon) -> None:
    digest = "sha256:" + hashlib.sha256(b"something").hexdigest()
    status, _, answer = ask(served, "POST", f"/api/blobs/{digest}", b"else")
    assert (400, True) == (status, "digest mismatch" in json.loads(answer)["error"])
    assert ask(served, "HEAD", f"/api/blobs/{digest}")[0] == 404
    assert ask(served, "POST", "/api/blobs/nonsense", b"x")[0] == 400
    assert ask(served, "POST", f"/api/blobs/{digest}", b"something")[0] == 201
    assert ask(served, "POST", f"/api/blobs/{digest}", b"")[0] == 200
    status, _, answer = ask(served, "POST", "/api/create", {"model": "x", "files": {"m.gguf": digest}, "stream": False})
    assert (400, True) == (status, "GGUF" in json.loads(answer)["error"])
    missing = "sha256:" + "0" * 64
    assert ask(served, "POST", "/api/create", {"model": "x", "files": {"m.gguf": missing}})[0] == 404


@pytest.mark.registry
def test_push(client: ollama.Client, tmp_path: Path) -> None:
    require("registry", available=shutil.which("docker-registry") is not None, reason="docker-registry is not on PATH")
    with docker_registry(tmp_path) as registry:
        name = f"{registry.host}/my/pushed"
        client.copy(MODEL, name)
        lines = list(client.push(name, stream=True))
        assert ("retrieving manifest", "success") == (lines[0].status, lines[-1].status)
        assert any(line.digest and line.total and line.completed == line.total for line in lines)
        client.delete(name)
        assert client.pull(name).status == "success"
        assert client.chat(name, said(), options=GREEDY).message.content == ANSWER
        client.delete(name)


# --- the rest


async def test_the_client_that_does_not_block(served: Daemon) -> None:
    async with ollama.AsyncClient(host=served.url) as client:
        answer = await client.chat(MODEL, said(), options=GREEDY)
        assert answer.message.content == ANSWER
        stream = await client.generate(MODEL, QUESTION, options=GREEDY, stream=True)
        assert "".join([line.response or "" async for line in stream]) == ANSWER
        assert len((await client.embed(MODEL, ["a", "b"])).embeddings) == 2
        assert (await client.list()).models
        digest = await client.create_blob(GGUF)
        assert digest.startswith("sha256:")
        with pytest.raises(ollama.ResponseError):
            await client.show("nope")


def ask(served: Daemon, method: str, path: str, body: Any = b"") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, {"User-Agent": "ollama-test/1"})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_that_it_runs_and_which_version(served: Daemon) -> None:
    assert (200, b"Ollama is running") == ask(served, "GET", "/")[::2]
    assert (200, b"") == ask(served, "HEAD", "/")[::2]
    assert json.loads(ask(served, "GET", "/api/version")[2])["version"]
    assert ask(served, "HEAD", "/api/tags")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/nothing", 404), ("GET", "/api/chat", 405), ("POST", "/api/tags", 405), ("POST", "/api/chat", 400)],
)
def test_errors_have_ollamas_shape(served: Daemon, method: str, path: str, status: int) -> None:
    found, headers, content = ask(served, method, path)
    assert (status, ["error"]) == (found, list(json.loads(content)))
    assert headers["content-type"] == "application/json"
    assert status != 405 or "allow" in headers


def test_what_is_ignored_is_named_and_refused_to_the_strict(served: Daemon) -> None:
    body = {
        "model": MODEL,
        "messages": said(),
        "stream": False,
        "nonsense": 1,
        "options": {"num_gpu": 1, "num_ctx": 99999},
    }
    status, headers, _ = ask(served, "POST", "/api/chat", body)
    assert (200, "nonsense, options.num_gpu") == (status, headers["dmr-ignored"])
    assert headers["dmr-clamped"] == "options.num_ctx=1024"
