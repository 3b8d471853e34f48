"""The command line of dmr-llama-server: spellings, values, and every way to get it wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from dmr_backends_llamacpp.server_flag_table import FLAGS
from dmr_backends_llamacpp.server_flag_values import EnumValue
from dmr_backends_llamacpp.server_flags import FlagError, ServerOptions, help_text, parse


def served(*argv: str) -> ServerOptions:
    return parse(["--model", "m.gguf", *argv])


def problems(*argv: str) -> tuple[str, ...]:
    with pytest.raises(FlagError) as caught:
        served(*argv)
    return caught.value.problems


def test_no_spelling_belongs_to_two_flags() -> None:
    spellings = [spelling for flag in FLAGS for spelling in (*flag.spellings, *flag.off_spellings)]

    assert sorted(set(spellings)) == sorted(spellings)


@pytest.mark.parametrize(
    ("argv", "path", "expected"),
    [
        (["-c", "4096"], "n_ctx", 4096),
        (["--ctx-size", "4096"], "n_ctx", 4096),
        (["--ctx_size", "4096"], "n_ctx", 4096),
        (["--ctx-size=4096"], "n_ctx", 4096),
        (["--ctx-size", "-1"], "n_ctx", 0),
        (["-c=512", "-c", "1024"], "n_ctx", 1024),
        (["-a", "b,a"], "model_alias", frozenset({"a", "b"})),
        (["-np", "2"], "n_parallel", 2),
        (["-np", "-1"], "n_parallel", -1),
        (["-ngl", "999"], "n_gpu_layers", 999),
        (["--gpu-layers", "auto"], "n_gpu_layers", -1),
        (["--n-gpu-layers", "all"], "n_gpu_layers", -2),
        (["-s", "-1"], "sampling.seed", 4294967295),
        (["--seed=-1"], "sampling.seed", 4294967295),
        (["--temp", "0.5"], "sampling.temp", 0.5),
        (["--repeat-last-n", "-1"], "sampling.penalty_last_n", -1),
        (["-n", "-1"], "n_predict", -1),
        (["--metrics"], "endpoint_metrics", True),
        (["--no-slots"], "endpoint_slots", False),
        (["--slots", "--no-slots"], "endpoint_slots", False),
        (["-nkvo"], "no_kv_offload", True),
        (["-kvo"], "no_kv_offload", False),
        (["--no-mmproj"], "no_mmproj", True),
        (["--no-mmproj-offload"], "mmproj_use_gpu", False),
        (["--no-jinja"], "use_jinja", False),
        (["--webui"], "ui", True),
        (["-fa", "on"], "flash_attn_type", EnumValue("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_ENABLED")),
        (["-fa", "auto"], "flash_attn_type", EnumValue("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_AUTO")),
        (["-ctk", "q8_0"], "cache_type_k", EnumValue("ggml_type", "GGML_TYPE_Q8_0")),
        (["--pooling", "mean"], "pooling_type", EnumValue("llama_pooling_type", "LLAMA_POOLING_TYPE_MEAN")),
        (["--reranking"], "pooling_type", EnumValue("llama_pooling_type", "LLAMA_POOLING_TYPE_RANK")),
        (["--rerank"], "embedding", True),
        (["--no-mmap"], "load_mode", EnumValue("llama_load_mode", "LLAMA_LOAD_MODE_NONE")),
        (["--mlock"], "load_mode", EnumValue("llama_load_mode", "LLAMA_LOAD_MODE_MMAP_MLOCK")),
        (["--mlock", "--no-mmap"], "load_mode", EnumValue("llama_load_mode", "LLAMA_LOAD_MODE_MLOCK")),
        (["-dio"], "load_mode", EnumValue("llama_load_mode", "LLAMA_LOAD_MODE_DIRECT_IO")),
        (["--no-mmap", "-lm", "mmap"], "load_mode", EnumValue("llama_load_mode", "LLAMA_LOAD_MODE_MMAP")),
        (["-to", "30"], "timeout_read", 30),
        (["-to", "30"], "timeout_write", 30),
        (["--rope-scale", "4"], "rope_freq_scale", 0.25),
        (["--fit", "off"], "fit_params", False),
        (["-fitt", "512"], "fit_params_target", (512 * 1024 * 1024,) * 16),
        (["-ts", "3,1"], "tensor_split", (3.0, 1.0)),
        (["-C", "5"], "cpuparams.cpus", (0, 2)),
        (["-Cr", "1-3", "-C", "1"], "cpuparams.cpus", (1, 2, 3, 0)),
        (["--spec-draft-prio-batch", "3"], "speculative.draft.cpuparams_batch.priority",
         EnumValue("ggml_sched_priority", "GGML_SCHED_PRIO_REALTIME")),
        (["-ncmoe", "1"], "tensor_buft_overrides", (r"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",)),
        (["--chat-template-kwargs", '{"a": true, "b": "x"}'], "default_template_kwargs", (("a", "true"), ("b", '"x"'))),
        (["--reasoning", "off"], "default_template_kwargs", (("enable_thinking", "false"),)),
        (["--reasoning-budget", "-1"], "sampling.reasoning_budget_tokens", -1),
        (["--sampling-seq", "kt"], "sampling.samplers", "top_k;temperature"),
        (["--samplers", "top-k;min_p"], "sampling.samplers", "top_k;min_p"),
        (["--spec-draft-n-max", "5"], "speculative.draft.n_max", 5),
        (["--draft-max", "5"], "speculative.draft.n_max", 5),
        (["--spec-draft-p-min", "0.75"], "speculative.draft.p_min", 0.75),
        (["--spec-type", "none,ngram-mod"], "speculative.types",
         (EnumValue("common_speculative_type", "COMMON_SPECULATIVE_TYPE_NONE"),
          EnumValue("common_speculative_type", "COMMON_SPECULATIVE_TYPE_NGRAM_MOD"))),
        (["--slot-save-path", "slots"], "slot_save_path", "slots/"),
        (["-v"], "verbosity", 5),
        (["-lv", "1"], "verbosity", 1),
        (["-r", "a", "-r", "b"], "antiprompt", ("a", "b")),
    ],
)  # fmt: skip
def test_value_lands_in_its_field(argv: list[str], path: str, expected: object) -> None:
    assert expected == served(*argv).values[path]


def test_defaults_are_those_of_llama_server_but_for_the_web() -> None:
    assert served().values == {
        "model.path": "m.gguf",
        "hostnames": ("127.0.0.1",),
        "port": 8080,
        "n_parallel": -1,
        "ui": False,
        "cors_origins": "localhost",
    }


def test_draft_model_switches_drafting_on() -> None:
    values = served("-md", "draft.gguf").values

    assert values["speculative.draft.mparams.path"] == "draft.gguf"
    assert values["speculative.types"] == (
        EnumValue("common_speculative_type", "COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE"),
    )


def test_socket_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    options = served("--host", "here.sock,127.0.0.1")

    assert options.hostnames == (str(tmp_path / "here.sock"), "127.0.0.1")
    assert options.socket_paths == (str(tmp_path / "here.sock"),)


def test_chosen_sampling_is_marked_against_the_models_own() -> None:
    assert frozenset({"TEMP", "TOP_K"}) == served("--temp", "1", "--top-k", "3", "--seed", "1").marks


def test_files_are_read_while_parsing(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    keys = tmp_path / "keys"
    keys.write_text("# mine\none\n\ntwo\n")

    values = served("--chat-template-file", str(template), "--api-key-file", str(keys), "--api-key", "three").values

    assert values["chat_template"] == "{{ messages }}"
    assert values["api_keys"] == ("one", "two", "three")


def test_lora_adapters_collect(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()

    values = served("--lora", str(one), "--lora-scaled", f"{two}:0.5").values

    assert values["lora_adapters"] == ((str(one), 1.0), (str(two), 0.5))


def test_flags_without_effect_change_nothing() -> None:
    given = served("--offline", "--escape", "-dt", "0.1", "--no-agent", "--no-ui-mcp-proxy", "--no-log-jsonl")

    assert served() == given


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--frobnicate"], "unknown argument: --frobnicate"),
        (["--frobnicate=1"], "unknown argument: --frobnicate"),
        (["--frobnicate", "value"], "unknown argument: --frobnicate"),
        (["stray"], "unknown argument: stray"),
        (["-c"], "-c: expected an integer from 0 to 2147483647, or -1, and the value is missing"),
        (["-c", "--metrics"], "-c: expected an integer from 0 to 2147483647, or -1, and the value is missing"),
        (["-c", "many"], "-c: expected an integer from 0 to 2147483647, or -1, not 'many'"),
        (["-c", "-2"], "-c: expected an integer from 0 to 2147483647, or -1, not '-2'"),
        (["-ngl", "some"], "-ngl: expected an integer of at least 0, or auto, or all, or -1, or -2, not 'some'"),
        (["--port", "65536"], "--port: expected an integer from 0 to 65535, not '65536'"),
        (["--port=x"], "--port: expected an integer from 0 to 65535, not 'x'"),
        (["--temp", "hot"], "--temp: expected a number of at least 0, not 'hot'"),
        (["--temp", "nan"], "--temp: expected a number of at least 0, not 'nan'"),
        (["--rope-scale", "0"], "--rope-scale: expected a number greater than 0, not '0'"),
        (["--metrics=yes"], "--metrics: expected no value, not 'yes'"),
        (["-fa", "perhaps"], "-fa: expected on, off or auto, not 'perhaps'"),
        (["--fit", "auto"], "--fit: expected on or off, not 'auto'"),
        (["--pooling", "sum"], "--pooling: expected one of none, mean, cls, last, rank, not 'sum'"),
        (["--chat-template-kwargs", "[1]"], "--chat-template-kwargs: expected a JSON object, not '[1]'"),
        (["--chat-template-kwargs", "{"], "--chat-template-kwargs: expected a JSON object, not '{'"),
        (["--chat-template-file", "/no/such"],
         "--chat-template-file: cannot read '/no/such': No such file or directory"),
        (["--lora", "/no/such"], "--lora: expected paths of existing files, separated by commas, not '/no/such'"),
        (["--api-prefix", "x"], "--api-prefix: expected text that starts with '/', not 'x'"),
        (["-Cr", "3-1"], "-Cr: expected a range of processors such as 0-3, below 512, not '3-1'"),
        (["-C", "0"], "-C: expected a hexadecimal mask of processors, not '0'"),
        (["-a", "one,,two"], "-a: expected names separated by commas, not 'one,,two'"),
        (["--ssl-key-file", "k"],
         "--ssl-key-file: expected --ssl-cert-file beside it, and the other way round"),
        (["-hf", "a/b"], ("-hf is refused: the bundled server downloads nothing; pull the model first and give its "
                         "path with --model")),
        (["--tools", "all"], ("--tools is refused: it lets a model act on this machine; set LLAMA_SERVER_PATH to a "
                             "native llama-server to allow it")),
        (["--device", "CUDA0"], ("--device is a llama-server flag that the bundled server cannot apply; set "
                                "LLAMA_SERVER_PATH to a native llama-server")),
    ],
)  # fmt: skip
def test_problem_names_the_flag_and_what_was_expected(argv: list[str], expected: str) -> None:
    assert (expected,) == problems(*argv)


def test_all_problems_are_told_together() -> None:
    native = "set LLAMA_SERVER_PATH to a native llama-server"

    with pytest.raises(FlagError) as caught:
        parse(["--frobnicate", "--port", "x", "--rpc", "host:1", "-c"])

    assert caught.value.problems == (
        "unknown argument: --frobnicate",
        "--port: expected an integer from 0 to 65535, not 'x'",
        f"--rpc is a llama-server flag that the bundled server cannot apply; {native}",
        "-c: expected an integer from 0 to 2147483647, or -1, and the value is missing",
        "--model: expected the path of a GGUF file, and the flag is missing",
    )


def test_socket_path_that_the_kernel_would_not_take_is_told() -> None:
    path = f"/{'d' * 120}.sock"

    assert (f"--host: expected a socket path of at most 107 bytes, not {path!r}",) == problems("--host", path)


@pytest.mark.parametrize("flag", ["-h", "--help", "--usage"])
def test_help_is_asked_for_in_three_ways(flag: str) -> None:
    assert parse(["-c", "1", flag, "--port"]).action == "help"


def test_help_lists_every_flag() -> None:
    listed = help_text()

    assert [flag.spellings for flag in FLAGS if flag.spellings[-1] not in listed] == []


@pytest.mark.parametrize(
    ("argv", "status", "expected"),
    [
        (["--version"], 0, "version: 0 (xllamacpp "),
        (["--help"], 0, "usage: dmr-llama-server"),
        (["-m", "/no/such.gguf"], 1, "error: failed to load model '/no/such.gguf': No such file or directory"),
        (["--frobnicate", "-m", "x"], 2, "error: unknown argument: --frobnicate"),
    ],
)
def test_nothing_imports_xllamacpp_before_there_is_a_model_to_serve(
    argv: list[str], status: int, expected: str
) -> None:
    program = (
        "import sys; from dmr_backends_llamacpp.server import main; status = main(sys.argv[1:]); "
        "assert 'xllamacpp' not in sys.modules; sys.exit(status)"
    )

    ended = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False)

    assert (status, True) == (ended.returncode, (ended.stdout + ended.stderr).startswith(expected)), ended.stderr
