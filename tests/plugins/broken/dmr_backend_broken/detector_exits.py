import sys

from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import DetectorSpec


@hookimpl
def dmr_gpu_detectors():
    yield DetectorSpec(variant="tpu", summary="leaves instead of looking", factory=lambda: sys.exit(5))
