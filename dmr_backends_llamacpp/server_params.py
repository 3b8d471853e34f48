"""From the values of a command line to the parameters of an xllamacpp server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dmr_backends_llamacpp.server_flag_values import CPU_LIMIT, EnumValue
from dmr_backends_llamacpp.server_flags import FlagError, ServerOptions

__all__ = ["common_params"]

# Below this a model computes a token in microseconds, and waiting for each other costs its threads more than they gain:
# on a machine that has anything else to do, two of them take a hundred times as long as one.
_ONE_THREAD_BELOW = 16 * 1024 * 1024


def common_params(xllamacpp: Any, options: ServerOptions) -> Any:
    """A ``CommonParams`` that holds every value of ``options``.

    Args:
        xllamacpp: The imported module; whoever calls decides when it is imported.
        options: What the command line asks for.

    Raises:
        FlagError: if xllamacpp does not accept a value, such as a device that this machine does not have.
    """
    params = xllamacpp.CommonParams()
    problems: list[str] = []
    for path, value in {**_thread_defaults(options), **options.values}.items():
        try:
            _set(xllamacpp, params, path, value)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            problems.append(f"{path.lstrip('@')}: the server does not accept {value!r}: {error}")
    if problems:
        raise FlagError(problems)
    for mark in options.marks:
        bit = xllamacpp.common_params_sampling_config[f"COMMON_PARAMS_SAMPLING_CONFIG_{mark}"]
        params.sampling.user_sampling_config |= int(bit)
    return params


def _thread_defaults(options: ServerOptions) -> Mapping[str, object]:
    if os.stat(options.model_path).st_size >= _ONE_THREAD_BELOW:  # noqa: PTH116 - importing pathlib costs milliseconds
        return {}
    return {"cpuparams.n_threads": 1}


def _set(xllamacpp: Any, params: Any, path: str, value: object) -> None:
    """Set one field, by the translation its path has or else as it is."""
    if path.endswith(".cpus"):
        _set_processors(_owner(params, path), value)
        return
    translate = _TRANSLATIONS.get(path)
    if translate is not None:
        translate(xllamacpp, params, value)
        return
    setattr(_owner(params, path), path.rpartition(".")[2], _plain(xllamacpp, path, value))


def _owner(params: Any, path: str) -> Any:
    for name in path.split(".")[:-1]:
        params = getattr(params, name)
    return params


def _plain(xllamacpp: Any, path: str, value: object) -> object:
    if isinstance(value, EnumValue):
        return getattr(xllamacpp, value.enum)[value.member]
    if isinstance(value, frozenset):
        return set(value)
    if isinstance(value, tuple):
        if path.endswith("tensor_buft_overrides"):
            return ",".join(value)
        return [_plain(xllamacpp, path, part) for part in value]
    return value


def _set_processors(pool: Any, value: Any) -> None:
    chosen = frozenset(value)
    pool.cpumask = [cpu in chosen for cpu in range(CPU_LIMIT)]
    pool.mask_valid = True


def _set_adapters(xllamacpp: Any, params: Any, value: Any) -> None:
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in value]


def _set_kwargs(_: Any, params: Any, value: Any) -> None:
    params.default_template_kwargs = dict(value)


def _set_shares(_: Any, params: Any, value: Any) -> None:
    room = len(params.tensor_split)  # xllamacpp insists on the full length
    params.tensor_split = [*value, *([0.0] * (room - len(value)))]


def _set_grammar(xllamacpp: Any, params: Any, value: Any) -> None:
    params.sampling.grammar.grammar = value
    params.sampling.grammar.type = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER


def _set_schema(xllamacpp: Any, params: Any, value: Any) -> None:
    params.sampling.grammar.grammar = xllamacpp.json_schema_to_grammar(value)
    params.sampling.grammar.type = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_OUTPUT_FORMAT


def _set_origins(_: Any, params: Any, value: Any) -> None:
    params.cors_origins = value
    params.cors_origins_explicit = True


_TRANSLATIONS: Mapping[str, Callable[[Any, Any, Any], None]] = MappingProxyType(
    {
        "lora_adapters": _set_adapters,
        "default_template_kwargs": _set_kwargs,
        "tensor_split": _set_shares,
        "cors_origins": _set_origins,
        "@grammar": _set_grammar,
        "@json_schema": _set_schema,
    }
)
