"""Whether a model may be given to an engine that might run code of it."""

from __future__ import annotations

from typing import Final

import attrs

from dmr_core.domain.admission import code_in
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Bundle
from dmr_core.errors import ModelCodeError
from dmr_core.ports.model_files import ModelFiles

__all__ = ["AdmissionService"]

_SHOWN: Final = 3


@attrs.frozen(kw_only=True)
class AdmissionService:
    """Looks at each model once. ``allowed`` are the models whose code the operator lets engines run."""

    files: ModelFiles
    allowed: frozenset[Digest] = frozenset()
    _found: dict[Digest, tuple[str, ...]] = attrs.field(factory=dict, init=False)

    async def admit(self, model_id: Digest, name: str, bundle: Bundle) -> bool:
        """Whether the model brings code along that the operator allowed; ``False`` where it is data alone.

        Raises:
            ModelCodeError: it brings code along, and nobody allowed that.
            PreconditionError: its files cannot be read.
        """
        found = self._found.get(model_id)
        if found is None:
            # The ID pins every byte, so what was found once stays true.
            found = code_in(await self.files.read(bundle.directory))
            self._found[model_id] = found
        if found and model_id not in self.allowed:
            more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise ModelCodeError(name, str(model_id), "; ".join(found[:_SHOWN]) + more)
        return bool(found)
