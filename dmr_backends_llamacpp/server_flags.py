"""The command line of ``dmr-llama-server``: llama-server's flags in, frozen values out, every problem told at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dmr_backends_llamacpp.server_flag_table import FLAGS
from dmr_backends_llamacpp.server_flag_values import EnumValue, Flag, Pairs

__all__ = ["FlagError", "ServerOptions", "help_text", "parse"]

_SOCKET_PATH_LIMIT = 107  # bytes that fit in sockaddr_un beside the closing zero
_ACTIONS = {
    "-h": "help",
    "--help": "help",
    "--usage": "help",
    "--version": "version",
    "--list-devices": "list-devices",
}
_COLLECTED = frozenset({"lora_adapters", "default_template_kwargs", "antiprompt", "api_keys"})
_COLLECTED_ENDINGS = (".cpus", "tensor_buft_overrides")
# What this server does when a flag is absent, where that is not what CommonParams() holds.
_DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "hostnames": ("127.0.0.1",),
        "port": 8080,
        "n_parallel": -1,  # llama-server decides; xllamacpp would settle for one slot
        "ui": False,
        "cors_origins": "localhost",  # the engine is private: a page elsewhere has no business with it
    }
)


class FlagError(Exception):
    """A command line that cannot be accepted; ``problems`` holds one sentence for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class ServerOptions(NamedTuple):
    """What the command line asks for.

    Attributes:
        action: ``serve``, ``help``, ``version`` or ``list-devices``.
        values: Field paths below ``CommonParams`` and what they are set to; paths that begin with ``@`` name values
            that must first be translated by xllamacpp.
        marks: The sampling settings that the user chose, by their names in ``common_params_sampling_config``.
    """

    action: str
    values: Mapping[str, object]
    marks: frozenset[str] = frozenset()

    @property
    def model_path(self) -> str:
        """The model to serve."""
        return str(self.values["model.path"])

    @property
    def hostnames(self) -> tuple[str, ...]:
        """Where to listen; socket paths are absolute."""
        hosts = self.values["hostnames"]
        assert isinstance(hosts, tuple)  # noqa: S101 - the table has no other reader for it
        return hosts

    @property
    def socket_paths(self) -> tuple[str, ...]:
        """The unix sockets among them."""
        return tuple(host for host in self.hostnames if host.endswith(".sock"))


class _Use(NamedTuple):
    """One use of a flag on the command line, before its value is read."""

    flag: Flag
    spelling: str
    text: str | None
    negated: bool


def parse(argv: Sequence[str]) -> ServerOptions:
    """Read the arguments after the program's name.

    Raises:
        FlagError: with every problem found, if there is any.
    """
    problems: list[str] = []
    values: dict[str, object] = {}
    marks: set[str] = set()
    for use in _uses(argv, problems):
        if isinstance(use, str):
            return ServerOptions(use, MappingProxyType({}))
        for path, value in _read(use, problems):
            _assign(values, path, value)
        if use.flag.mark:
            marks.add(use.flag.mark)
    if "model.path" not in values and not any(problem.startswith(("--model:", "-m:")) for problem in problems):
        problems.append("--model: expected the path of a GGUF file, and the flag is missing")
    settled = _settle({**_DEFAULTS, **values}, problems)
    if problems:
        raise FlagError(problems)
    return ServerOptions("serve", MappingProxyType(settled), frozenset(marks))


def help_text() -> str:
    """What ``--help`` prints: every flag under its heading."""
    lines = [
        "usage: dmr-llama-server --model FILE [flag ...]",
        "",
        "Serves one model as llama-server does, with the server inside the xllamacpp package.",
        "Flags are spelled as llama-server spells them; --flag=value works as well.",
        "",
        "-h, --help                print this and exit",
        "--version                 print the version and exit",
        "--list-devices            print the devices and exit",
    ]
    group = ""
    for flag in FLAGS:
        if flag.refused:
            continue
        if flag.group != group:
            group = flag.group
            lines += ["", f"{group}:"]
        spelled = ", ".join((*flag.spellings, *flag.off_spellings))
        heading = f"{spelled} {flag.reader.metavar}" if flag.reader else spelled
        lines += [f"{heading:<25} {flag.help}"] if len(heading) <= 25 else [heading, f"{'':<25} {flag.help}"]
    refused = ", ".join(flag.spellings[-1] for flag in FLAGS if flag.refused)
    return "\n".join([*lines, "", f"Known and refused: {refused}", ""])


def _spellings() -> dict[str, tuple[Flag, bool]]:
    known: dict[str, tuple[Flag, bool]] = {}
    for flag in FLAGS:
        known.update((spelling, (flag, False)) for spelling in flag.spellings)
        known.update((spelling, (flag, True)) for spelling in flag.off_spellings)
    return known


def _uses(argv: Sequence[str], problems: list[str]) -> Iterator[_Use | str]:
    """Split the command line into uses of flags, or name the action that one of them asks for."""
    known = _spellings()

    def canonical(token: str) -> str:  # llama-server takes --ctx_size for --ctx-size
        return token.replace("_", "-") if token.startswith("--") else token

    position = 0
    while position < len(argv):
        token = argv[position]
        position += 1
        name, equals, attached = token.partition("=")
        spelling = canonical(name)
        if not equals and spelling in _ACTIONS:
            yield _ACTIONS[spelling]
            return
        if spelling not in known:
            problems.append(f"unknown argument: {name if token.startswith('-') else token}")
            # Without knowing the flag, only its looks tell whether the next word is its value.
            if token.startswith("-") and not equals and position < len(argv) and not argv[position].startswith("-"):
                position += 1
            continue
        flag, negated = known[spelling]
        text = attached if equals else None
        if flag.reader is not None and not equals:
            following = argv[position] if position < len(argv) else None
            if following is not None and canonical(following.partition("=")[0]) not in {*known, *_ACTIONS}:
                text = following
                position += 1
        yield _Use(flag, spelling, text, negated)


def _read(use: _Use, problems: list[str]) -> Iterator[tuple[str, object]]:
    flag, spelling = use.flag, use.spelling
    if flag.refused and not use.negated:
        problems.append(f"{spelling} {flag.refused}")
        return
    if flag.reader is None:
        if use.text is not None:
            problems.append(f"{spelling}: expected no value, not {use.text!r}")
            return
        value = flag.off if use.negated else flag.on
    elif use.text is None:
        problems.append(f"{spelling}: expected {flag.reader.expected}, and the value is missing")
        return
    else:
        try:
            value = flag.reader.read(use.text)
        except (ValueError, OverflowError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            problems.append(f"{spelling}: expected {flag.reader.expected}, not {use.text!r}")
            return
        except OSError as error:
            problems.append(f"{spelling}: cannot read {use.text!r}: {error.strerror}")
            return
    if isinstance(value, Pairs):
        yield from value.items
    elif flag.path:
        yield flag.path, value


def _assign(values: dict[str, object], path: str, value: object) -> None:
    before = values.get(path)
    collects = path in _COLLECTED or path.endswith(_COLLECTED_ENDINGS)
    if collects and isinstance(before, tuple) and isinstance(value, tuple):
        value = before + value
    values[path] = value


def _settle(values: dict[str, object], problems: list[str]) -> dict[str, object]:
    """Turn what several flags say together, or what depends on the working directory, into single values."""
    given = values["hostnames"]
    assert isinstance(given, tuple)  # noqa: S101 - the table has no other reader for it
    hosts = tuple(_absolute(host) if host.endswith(".sock") else host for host in given)
    values["hostnames"] = hosts
    problems.extend(
        f"--host: expected a socket path of at most {_SOCKET_PATH_LIMIT} bytes, not {path!r}"
        for path in hosts
        if path.endswith(".sock") and len(os.fsencode(path)) > _SOCKET_PATH_LIMIT
    )
    if ("ssl_file_key" in values) != ("ssl_file_cert" in values):
        problems.append("--ssl-key-file: expected --ssl-cert-file beside it, and the other way round")
    if "speculative.draft.mparams.path" in values:
        draft = EnumValue("common_speculative_type", "COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE")
        values.setdefault("speculative.types", (draft,))
    timeout = values.pop("@timeout", None)
    if timeout is not None:
        values["timeout_read"] = values["timeout_write"] = timeout
    scale = values.pop("@rope_scale", None)
    if isinstance(scale, float):
        values["rope_freq_scale"] = 1.0 / scale
    for name, target in (("@experts", ""), ("@experts_draft", "speculative.draft.")):
        layers = values.pop(name, None)
        if isinstance(layers, int):
            patterns = tuple(rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU" for layer in range(layers))
            _assign(values, f"{target}tensor_buft_overrides", patterns)
    mode = _load_mode(values.pop("@mmap", None), values.pop("@mlock", None), values.pop("@direct_io", None))
    if mode:
        values.setdefault("load_mode", EnumValue("llama_load_mode", f"LLAMA_LOAD_MODE_{mode}"))
    return values


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - importing pathlib costs milliseconds


def _load_mode(mapped: object, locked: object, direct: object) -> str:
    if direct:
        return "DIRECT_IO"
    if locked:
        return "MLOCK" if mapped is False else "MMAP_MLOCK"
    if mapped is None:
        return ""
    return "MMAP" if mapped else "NONE"
