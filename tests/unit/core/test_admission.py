"""Models that bring code along are found by looking at their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_core.domain.admission import ModelFile, code_in
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Bundle
from dmr_core.errors import ModelCodeError
from dmr_core.ports.model_files import ModelFiles
from dmr_core.services.admission import AdmissionService

_ID = Digest("a" * 64)


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("modeling_x.py", None),
        ("sub/deep/Tool.PY", None),
        ("module.py.gz", None),
        ("kernel.so", None),
        ("pytorch_model.bin", None),
        ("pytorch_model-00001-of-00002.bin", None),
        ("training_args.pt", None),
        ("weights.pkl", None),
        ("array.npy", None),
        ("config.json", b'{"auto_map": {"AutoModel": "m.M"}}'),
        ("tokenizer_config.json", b'{"a": [{"b": {"auto_map": ["t.T", null]}}]}'),
        ("config.json", b'{"\\u0061uto_map": {"AutoModel": "m.M"}}'),
        ("config.json", b'{"auto_map": {"AutoModel": "m.M"}, "auto_map": null}'),
        ("config.json", b'{"model_file": "m.py"}'),
        ("sub/preprocessor_config.json", b'{"trust_remote_code": true}'),
        ("config.json", b"[" * 100_000),
        ("config.json", b"{"),
        ("config.json", None),
    ],
)
def test_code_and_what_names_code_is_found(path: str, document: bytes | None) -> None:
    (found,) = code_in([ModelFile(path=path, document=document)])
    assert path in found


def test_data_alone_is_no_code() -> None:
    files = [
        ModelFile(
            path="config.json", document=b'{"architectures": ["X"], "auto_map": null, "trust_remote_code": false}'
        ),
        ModelFile(path="model.safetensors"),
        ModelFile(path="model.safetensors.index.json"),
        ModelFile(path="tokenizer.json"),
        ModelFile(path="tokenizer.model"),
        ModelFile(path="chat_template.jinja"),
        ModelFile(path="README.md"),
    ]
    assert code_in(files) == ()


class Files(ModelFiles):
    """Counts how often anybody looks."""

    def __init__(self, *files: ModelFile) -> None:
        self.files = files
        self.looks = 0

    async def read(self, directory: Path) -> tuple[ModelFile, ...]:
        self.looks += 1
        return self.files


async def test_a_model_is_looked_at_once_and_refused_by_name_with_what_to_do() -> None:
    files = Files(*(ModelFile(path=f"m{number}.py") for number in range(5)))
    service = AdmissionService(files=files)
    for _ in range(2):
        with pytest.raises(ModelCodeError) as caught:
            await service.admit(_ID, "team/odd", Bundle(root=Path("/b")))
    assert files.looks == 1
    message = caught.value.message
    assert "team/odd" in message
    assert "m2.py is a program, and 2 more" in message
    assert f"DMR_TRUST_CODE=sha256:{'a' * 64}" in message


async def test_what_the_operator_allowed_runs_and_that_is_known() -> None:
    service = AdmissionService(files=Files(ModelFile(path="m.py")), allowed=frozenset({_ID}))
    assert await service.admit(_ID, "odd", Bundle(root=Path("/b")))
    plain = AdmissionService(files=Files(ModelFile(path="m.safetensors")), allowed=frozenset({_ID}))
    assert not await plain.admit(_ID, "plain", Bundle(root=Path("/b")))
