"""dmr-llama-server as a real child process, serving the bundled demo model."""

import contextlib
import http.client
import json
import operator
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmr_backends_llamacpp.server_flag_table import FLAGS
from dmr_backends_llamacpp.server_flag_values import EnumValue
from dmr_backends_llamacpp.server_flags import FlagError, parse
from dmr_backends_llamacpp.server_params import common_params

MODEL = Path(__file__).parents[2] / "dmr_cli" / "demo" / "model" / "demo.gguf"
PROGRAM = [sys.executable, "-m", "dmr_backends_llamacpp.server"]
DEADLINE = 30.0
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


class Child:
    """A running server, its socket and what it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], address: Path, log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.005)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(str(self.address))
        return connection

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        client = http.client.HTTPConnection("engine")
        client.sock = self.connect()
        try:
            client.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            client.close()


@contextlib.contextmanager
def running(directory: Path, *flags: str, model: Path = MODEL) -> Iterator[Child]:
    """A server that listens; it is killed at the end if it still runs."""
    address, log = directory / "engine.sock", directory / "log"
    with log.open("wb") as output:
        argv = [*PROGRAM, "-m", str(model), "--host", str(address), "-lv", "1", "-c", "512", "-t", "1", *flags]
        process = subprocess.Popen(argv, stderr=output, stdin=subprocess.DEVNULL)
    child = Child(process, address, log)
    try:
        child.until(lambda: "listening on" in log.read_text())
        yield child
    finally:
        process.kill()
        process.wait()


def ended(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *argv], capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket, whatever the temporary directory of the run is called."""
    directory = Path(f"/tmp/dmr-{os.getpid()}")
    directory.mkdir(mode=0o700)
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def test_chat_over_a_unix_socket_answers_by_its_alias_and_sigterm_ends_it(short_path: Path) -> None:
    with running(short_path, "--alias", "ai/demo:latest", "--metrics") as child:
        assert child.ask("GET", "/health") == (200, {"status": "ok"})
        status, answer = child.ask("POST", "/v1/chat/completions", {**CHAT, "model": "another"})
        _, models = child.ask("GET", "/v1/models")

        child.process.send_signal(signal.SIGTERM)

        assert (status, answer["model"]) == (200, "ai/demo:latest")
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert [model["id"] for model in models["data"]] == ["ai/demo:latest"]
        assert (child.wait(), child.address.exists()) == (0, False)
        assert f"(pid {child.process.pid}, model {MODEL})" in child.log.read_text()
        assert f"listening on unix://{child.address} (ready in " in child.log.read_text()


def test_sigint_cuts_off_an_endless_stream(short_path: Path) -> None:
    with running(short_path, "--context-shift") as child, child.connect() as connection:
        _request_without_end(connection, stream=True)
        received = connection.recv(65536)

        child.process.send_signal(signal.SIGINT)

        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"[DONE]" not in received
        assert (child.wait(), child.address.exists()) == (0, False)


def test_sigterm_leaves_a_request_without_an_answer_rather_than_with_a_wrong_one(short_path: Path) -> None:
    with running(short_path, "--context-shift") as child, child.connect() as connection:
        _request_without_end(connection, stream=False)
        child.until(lambda: any(slot["is_processing"] for slot in child.ask("GET", "/slots")[1]))

        child.process.send_signal(signal.SIGTERM)

        assert connection.recv(65536) == b""
        assert (child.wait(), child.address.exists()) == (0, False)


def test_socket_that_a_killed_server_left_is_replaced(short_path: Path) -> None:
    with running(short_path) as child:
        child.process.kill()
        child.wait()
        assert child.address.is_socket()

    with running(short_path) as child:
        assert child.ask("GET", "/health") == (200, {"status": "ok"})
        child.process.terminate()
        assert child.wait() == 0


def test_socket_of_a_live_server_is_left_alone(short_path: Path) -> None:
    with running(short_path) as child:
        second = ended("-m", str(MODEL), "--host", str(child.address))

        assert (1, f"error: cannot listen on '{child.address}': another process does\n") == (
            second.returncode,
            second.stderr,
        )
        assert child.ask("GET", "/health") == (200, {"status": "ok"})
        child.process.terminate()
        assert child.wait() == 0


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "x.sock"
    precious.write_text("precious")

    second = ended("-m", str(MODEL), "--host", str(precious))

    assert (second.returncode, precious.read_text()) == (1, "precious")
    assert second.stderr == f"error: cannot listen on '{precious}': it exists and is not a socket\n"


def test_embeddings_of_a_server_started_for_them(short_path: Path) -> None:
    with running(short_path, "--embeddings", "--pooling", "mean", "--alias", "e") as child:
        status, answer = child.ask("POST", "/v1/embeddings", {"input": ["one", "two"]})
        _, echoed = child.ask("POST", "/v1/embeddings", {"input": "one", "model": "another"})
        chat_status, _ = child.ask("POST", "/v1/chat/completions", CHAT)
        child.process.terminate()

        assert (status, answer["model"], len(answer["data"])) == (200, "e", 2)
        assert echoed["model"] == "another"
        assert chat_status == 200
        assert child.wait() == 0


def test_no_embeddings_of_a_server_started_for_chat(short_path: Path) -> None:
    with running(short_path) as child:
        status, answer = child.ask("POST", "/v1/embeddings", {"input": "one"})
        child.process.terminate()

        assert (status, answer["error"]["type"]) == (501, "not_supported_error")
        assert child.wait() == 0


def test_draft_model_drafts(short_path: Path) -> None:
    with running(short_path, "--model-draft", str(MODEL), "--spec-draft-n-max", "3", "--temp", "0") as child:
        _, answer = child.ask("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 24, "ignore_eos": True})
        child.process.terminate()

        assert answer["timings"]["draft_n"] > 0
        assert child.wait() == 0


def test_server_dies_with_its_parent_when_asked(short_path: Path) -> None:
    argv = [*PROGRAM, "-m", str(MODEL), "--host", str(short_path / "engine.sock"), "-lv", "1", "-t", "1"]
    program = f"import subprocess, time; subprocess.Popen({argv!r}); time.sleep(600)"
    log = short_path / "log"
    with log.open("wb") as output:
        environment = {**os.environ, "DMR_DIE_WITH_PARENT": "1"}
        parent = subprocess.Popen([sys.executable, "-c", program], stderr=output, env=environment)
    child = Child(parent, short_path / "engine.sock", log)
    try:
        child.until(lambda: "listening on" in log.read_text())
    finally:
        parent.kill()
        parent.wait()

    end = time.monotonic() + DEADLINE
    while child.address.exists() or "stopping on SIGTERM" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_model_that_is_missing_or_no_gguf_is_told_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("hello")

    missing, wrong = ended("-m", str(tmp_path / "no.gguf")), ended("-m", str(text))

    assert (1, f"error: failed to load model '{tmp_path}/no.gguf': No such file or directory\n") == (
        missing.returncode,
        missing.stderr,
    )
    assert (1, f"error: failed to load model '{text}': not a GGUF file\n") == (wrong.returncode, wrong.stderr)


def test_truncated_model_ends_with_a_clean_line(short_path: Path) -> None:
    cut = short_path / "cut.gguf"
    cut.write_bytes(MODEL.read_bytes()[: MODEL.stat().st_size // 2])

    failed = ended("-m", str(cut), "--host", str(short_path / "x.sock"), "-lv", "1")

    last = failed.stderr.splitlines()[-1]
    assert (1, f"error: failed to load model '{cut}': the lines above say why") == (failed.returncode, last)
    assert "Traceback" not in failed.stderr
    assert not (short_path / "x.sock").exists()


def test_address_that_cannot_be_used_is_told_apart_from_the_model(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "x.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        unix = ended("-m", str(MODEL), "--host", str(absent), "-lv", "1")
        tcp = ended("-m", str(MODEL), "--port", str(port), "-lv", "1")

    assert (1, f"error: cannot listen on '{absent}': No such file or directory") == (
        unix.returncode,
        unix.stderr.splitlines()[-1],
    )
    assert (1, f"error: cannot listen on '127.0.0.1:{port}': Address already in use") == (
        tcp.returncode,
        tcp.stderr.splitlines()[-1],
    )


def test_unknown_flag_ends_with_status_two() -> None:
    failed = ended("-m", str(MODEL), "--frobnicate", "--port", "none")

    assert failed.returncode == 2
    assert failed.stderr == (
        "error: unknown argument: --frobnicate\nerror: --port: expected an integer from 0 to 65535, not 'none'\n"
    )


def test_every_field_of_the_table_exists() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    paths = {flag.path for flag in FLAGS if flag.path and not flag.path.startswith("@")}
    names = [path.replace(".cpus", ".cpumask") for path in sorted(paths)]

    assert [name for name in names if not _has(params, name)] == []


def test_every_member_and_mark_of_the_table_exists() -> None:
    import xllamacpp

    for flag in FLAGS:
        if flag.reader and flag.reader.expected.startswith("one of "):
            for word in flag.reader.expected.removeprefix("one of ").split(", "):
                value = flag.reader.read(word)
                assert not isinstance(value, EnumValue) or getattr(xllamacpp, value.enum)[value.member] is not None
        if flag.mark:
            assert xllamacpp.common_params_sampling_config[f"COMMON_PARAMS_SAMPLING_CONFIG_{flag.mark}"] > 0


def test_values_reach_the_parameters() -> None:
    import xllamacpp

    flags = (
        "--alias a,b -ts 3,1 -C 5 --seed -1 --top-k 7 -fa off --no-mmap -rea on --api-key x,y -ncmoe 1 -to 9 "
        "--spec-type ngram-mod --json-schema {} --lazy-mode on"
    )
    params = common_params(xllamacpp, parse(["-m", str(MODEL), *flags.split()]))

    assert params.model_alias == {"a", "b"}
    assert params.tensor_split[:3] == [3.0, 1.0, 0.0]
    assert (params.cpuparams.mask_valid, params.cpuparams.cpumask[:4]) == (True, [True, False, True, False])
    assert (params.sampling.seed, params.sampling.top_k, params.sampling.user_sampling_config) == (4294967295, 7, 2)
    assert params.flash_attn_type == xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    assert params.load_mode == xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    assert params.lazy_mode == xllamacpp.llama_lazy_mode.LLAMA_LAZY_MODE_ON
    assert (params.enable_reasoning, params.default_template_kwargs) == (1, {"enable_thinking": "true"})
    assert params.api_keys == ["x", "y"]
    assert params.tensor_buft_overrides == r"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"
    assert (params.timeout_read, params.timeout_write) == (9, 9)
    assert params.speculative.types == [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_MOD]
    assert params.sampling.grammar.grammar


def test_value_that_the_library_refuses_names_its_field() -> None:
    import xllamacpp

    with pytest.raises(FlagError, match=r"speculative\.draft\.devices: the server does not accept 'none-such'"):
        common_params(xllamacpp, parse(["-m", str(MODEL), "-devd", "none-such"]))


def _request_without_end(connection: socket.socket, *, stream: bool) -> None:
    body = json.dumps({**CHAT, "max_tokens": -1, "ignore_eos": True, "stream": stream}).encode()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n")
    connection.sendall(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def _has(params: object, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return hasattr(operator.attrgetter(parent)(params) if parent else params, name)
