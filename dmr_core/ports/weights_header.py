"""Reading what weights say about themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

from dmr_core.domain.model import Model

__all__ = ["HeaderValue", "WeightsHeaders"]

HeaderValue = int | float | str | tuple[int | float | str, ...]
"""A value of a header. ``bool`` is an ``int`` here as elsewhere."""


class WeightsHeaders(Protocol):
    """Headers of the weights of stored models."""

    @abstractmethod
    async def read(self, model: Model) -> Mapping[str, HeaderValue]:
        """The keys and values of a model's header, without arrays too long to be looked at, and
        ``general.parameter_count``.

        Raises:
            MalformedArtifactError: a header breaks its format.
            UnsupportedFormatError: the weights are of a format whose headers are not read.
            InvalidRequestError: the file cannot be read.
        """
