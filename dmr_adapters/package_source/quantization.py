"""Tensor types of ggml, and the name of the quantization that a GGUF's tensors amount to.

Numbers and block sizes are those of ggml (``ggml.h``, ``enum ggml_type``; ``gguf-py`` lists the sizes as
``GGML_QUANT_SIZES``). Names and the vote for files that do not say what they are come from
gguf-parser-go v0.24 (``file_metadata.go``), which the reference packager uses: what it calls a model ends
up in the config, hence in the model's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["UNKNOWN_TYPE", "quantization_name", "tensor_bytes", "voted_file_type"]

UNKNOWN_TYPE: Final = 1 << 32
"""Stands for every tensor type that is not in the table; no real one, as those are 32 bits long."""

_UNKNOWN: Final = "Unknown"
_GUESSED: Final = 39
"""The file type that means "not written down" to the reference."""

_FILE_TYPES: Final = (
    *("F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S"),
    *("Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS"),
    *("IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "Q4_0_4_4"),
    *("Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "MXFP4"),
)

# type number: (name, elements in a block, bytes in a block)
_TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    31: ("Q4_0_4_4", 32, 18),
    32: ("Q4_0_4_8", 32, 18),
    33: ("Q4_0_8_8", 32, 18),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
_NUMBERS: Final = {name: number for number, (name, _, _) in _TENSOR_TYPES.items()}


def tensor_bytes(tensor_type: int, elements: int) -> int | None:
    """What ``elements`` values of a type take, ``None`` for a type that is not in the table."""
    known = _TENSOR_TYPES.get(tensor_type)
    return None if known is None else -(-elements // known[1]) * known[2]


def quantization_name(file_type: int | None, votes: Mapping[int, int]) -> str:
    """The name in a config: by the file's own ``general.file_type``, else by ``votes``, tensors per type."""
    if file_type is None or file_type == _GUESSED:
        name = voted_file_type(votes)
        return _UNKNOWN if name is None else f"MOSTLY_{name}"
    if 0 <= file_type < len(_FILE_TYPES):
        return f"MOSTLY_{_FILE_TYPES[file_type]}"
    return f"GGUFFileType({file_type})"


def voted_file_type(votes: Mapping[int, int]) -> str | None:
    """What most tensors are, refined by what the rest are; ``None`` where that has no name.

    Between types of equal count the lower number wins, so that the same file always has the same name.
    """
    ranked = sorted(votes, key=lambda number: (-votes[number], number))
    if not ranked:
        return None
    top = ranked[0]
    if top == _NUMBERS["F32"] and len(ranked) > 1:
        top = ranked[1]
    known = _TENSOR_TYPES.get(top)
    return None if known is None else _refined(known[0], votes, rarest=ranked[-1])


def _refined(name: str, votes: Mapping[int, int], rarest: int) -> str | None:
    def count(tensor_type: str) -> int:
        return votes.get(_NUMBERS[tensor_type], 0)

    if name == "Q4_K":
        if count("Q6_K") > 1:
            return "Q4_K_M"
        return "Q3_K_M" if count("Q3_K") > 1 else "Q4_K_S"
    if name == "Q5_K":
        return "Q5_K_M" if count("Q6_K") > 1 else "Q5_K_S"
    if name == "Q3_K":
        if count("Q8_0") or (count("Q5_K") > 1 and not count("Q4_K")):
            return "Q3_K_L"
        return "Q3_K_M" if count("Q4_K") > 1 else "Q3_K_S"
    if name == "Q2_K":
        return "Q2_K_S" if rarest == _NUMBERS["Q5_K"] else "Q2_K"
    if name == "IQ2_XS":
        return "IQ2_S" if count("IQ4_XS") > 1 else "IQ2_XS"
    if name == "IQ2_S":
        return "IQ2_M"
    if name == "IQ3_S":
        return "IQ3_XS" if count("IQ3_XXS") > 1 else "IQ3_S"
    return name if name in _FILE_TYPES else None
