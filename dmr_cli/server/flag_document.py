"""Writes ``docs/flags.md`` from the backends' own tables: ``python -m dmr_cli.server.flag_document > docs/flags.md``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from dmr_core.domain.flags import Flag, FlagTable
from dmr_core.plugins import PluginRegistry, installed_entry_points

__all__ = ["flag_document"]

_INTRODUCTION: Final = """\
# Runtime flags

<!-- Written by `python -m dmr_cli.server.flag_document > docs/flags.md`; a test fails when it is out of date. -->

What may be given to an engine beyond dmr's typed settings: as `runtime-flags` (a list of words) or `raw-runtime-flags`
(one string, split as a shell splits it) of `POST /engines/_configure`, or after `--` of `docker model configure`.

- `--flag value` and `--flag=value` are the same, and so are `--ctx-size` and `--ctx_size`. Negative numbers are values:
  `--seed -1`. No other value may begin with `-`.
- Every flag is checked when the settings are made, against the backend that will serve the model. What is not listed,
  has no value where it needs one, or has one of another type, is refused with status 400 and the flag's name.
- Nothing here takes a path, a URL, an address, a key or code. Only values that are text or JSON may hold `/` and `\\`:
  the engine reads them as they stand. A `$ref` in a JSON schema has to stay within it.
- The last use of a flag counts, and a runtime flag wins over the typed setting that says the same (last column). The
  engine gets each flag once; `dmr configure show --explain` says where it came from.
- A flag that chooses a mode (`--embeddings`, `--reranking`) decides it where none is given, and is refused beside another.
- At most 256 words and 256 KiB in all.
"""

_NOTES: Final[Mapping[str, str]] = {
    "llama.cpp": """\
The bundled server lacks a few of these, and refuses them when the settings are made; a native `llama-server`
(`LLAMA_SERVER_PATH`) has them.

`LLAMA_ARGS`, the operator's own arguments for every model, replaces `-ngl 999 --metrics`. It may hold any flag of
llama-server, paths included, but none that the runner sets itself: the model and its projector, draft and sources,
`--host`, `--port`, `--alias`, `--api-key…`, `--api-prefix`, `--ssl-…`, `--embeddings`, `--reranking`. It is checked when
the service starts: every value for the bundled server, and for a native one whether each flag has the value it needs; a
flag that dmr does not know is passed on to a native server with a warning.
""",
    "vllm": "`--no-` twins are vLLM's own. Checked against the documented arguments of `vllm serve`, not against a running one.\n",
}


def flag_document(tables: Mapping[str, FlagTable]) -> str:
    """The document, with a section for each backend."""
    return _INTRODUCTION + "".join(_section(name, tables[name]) for name in sorted(tables))


def _section(name: str, table: FlagTable) -> str:
    rows = "\n".join(_row(flag) for flag in sorted(table.flags, key=_sorting))
    refused = "".join(f"\n- `{name}`: {reason}" for name, reason in sorted(table.withheld.items()) if reason)
    notes = f"\n{_NOTES[name]}" if name in _NOTES else ""
    left_out = f"\n\nLeft out, though there is such a flag:\n{refused}" if refused else ""
    return (
        f"\n## {name}\n{notes}\n| Flags | Value | What it does | Typed setting |\n|---|---|---|---|\n{rows}{left_out}\n"
    )


def _row(flag: Flag) -> str:
    names = " ".join(f"`{name}`" for name in (*_by_clarity(flag.names), *_by_clarity(flag.off_names)))
    kind = _cell(flag.kind.expected) if flag.kind else ""
    return f"| {names} | {kind} | {_cell(flag.help)} | {f'`{flag.setting}`' if flag.setting else ''} |"


def _sorting(flag: Flag) -> str:
    return _by_clarity(flag.names or flag.off_names)[0]


def _by_clarity(names: tuple[str, ...]) -> tuple[str, ...]:
    """Long names before their short forms."""
    return tuple(sorted(names, key=lambda name: not name.startswith("--")))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Print the document for the backends that are installed."""
    backends = PluginRegistry.discover(installed_entry_points()).backends
    sys.stdout.write(flag_document({name: spec.flags() for name, spec in backends.items() if spec.flags is not None}))


if __name__ == "__main__":
    main()
