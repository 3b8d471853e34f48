"""Hubs that can be searched for models."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from dmr_core.domain.search import SearchHit

__all__ = ["ModelSearch"]


class ModelSearch(Protocol):
    """One hub. What it says is untrusted; the hits have been bounded and cleaned.

    Every method raises ``RegistryUnreachableError`` (no answer, or it broke) and ``RegistryError`` (any answer that
    is not one). Cancelling closes the connection.
    """

    @property
    @abstractmethod
    def key(self) -> str:
        """What people choose it by: ``dockerhub``."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: ``Docker Hub``."""

    @abstractmethod
    async def search(self, term: str, limit: int) -> tuple[SearchHit, ...]:
        """Up to ``limit`` models that ``term`` matches, the most downloaded first; all with an empty ``term``."""

    @abstractmethod
    async def described(self, hit: SearchHit) -> SearchHit:
        """``hit``, one of this hub's, with backend and size; as it was where the hub does not tell."""
