"""The process that :mod:`judge` starts: cases on standard input, the first thing that is wrong on standard output.

JSON Schema as ``$schema`` says, else draft 2020-12. References lead nowhere but into the schema itself: nothing is
fetched. ``format`` is a remark, as the standard has it by default.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

__all__ = ["first_violation", "main"]

_CPU_SECONDS: Final = 4
_MEMORY: Final = 1024 * 1024 * 1024
_MAX_MESSAGE: Final = 400


def first_violation(cases: list[list[Any]]) -> list[str]:
    """``[kind, where, message]`` of the first case that is wrong, ``[]`` where none is. The kind is ``schema`` or ``value``."""
    import jsonschema  # noqa: PLC0415 - the service imports this module's neighbours, and must not wait for it
    from jsonschema.validators import validator_for  # noqa: PLC0415 - as above
    from referencing import Registry  # noqa: PLC0415 - as above
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - as above

    for where, schema, value in cases:
        try:
            kind = validator_for(schema, default=jsonschema.Draft202012Validator)
            kind.check_schema(schema)
            error = next(kind(schema, registry=Registry()).iter_errors(value), None)
        except jsonschema.SchemaError as exc:
            return ["schema", where, exc.message[:_MAX_MESSAGE]]
        except Unresolvable as exc:
            return ["schema", where, f"it refers to {str(exc.ref)[:_MAX_MESSAGE]!r}, which is not in it"]
        except RecursionError:
            return ["schema", where, "it refers to itself without end"]
        except Exception as exc:  # a schema may be any JSON, and the library trips over some of it
            return ["schema", where, f"{type(exc).__name__}: {exc}"[:_MAX_MESSAGE]]
        if error is not None:
            return ["value", where + error.json_path.removeprefix("$"), error.message[:_MAX_MESSAGE]]
    return []


def main() -> None:
    """Judge what comes on standard input, within bounds the system enforces."""
    try:
        import resource  # noqa: PLC0415 - not on every platform
    except ImportError:
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    report = first_violation(json.load(sys.stdin))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
