"""What llama-server prints while it loads a model, by where it puts it.

``LINES`` are those of build 9284 at verbosity 4, put together from reports on its issue tracker and from the output of
``xllamacpp``; ``USUAL`` are what it prints without.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "DRAFT",
    "DRIVER_TOO_OLD",
    "NO_DEVICE",
    "NO_LIBRARY",
    "OLD",
    "ONLY_SAYS_SO",
    "ON_CPU",
    "USUAL",
    "USUAL_CPU",
    "cuda",
    "rocm",
]

_INFO: Final = """\
0.00.041.405 I cmn  common_param: common_params_print_info: build 9284 (afcda09d1) with GNU 11.4.0 for Linux x86_64
0.00.041.406 I cmn  common_param: common_params_print_info: verbosity = 4 (adjust with the `-lv N` CLI arg)
0.00.041.406 I cmn  common_param: device_info:
"""
_CUDA_INFO: Final = (
    "0.00.041.410 I cmn  common_param:   - CUDA0   : NVIDIA H100 80GB HBM3 (81079 MiB, 80543 MiB free)\n"
)
_CPU_INFO: Final = "0.00.041.412 I cmn  common_param:   - CPU     : AMD EPYC 9654 (386000 MiB, 380000 MiB free)\n"
_FITTING: Final = """\
0.00.052.003 I cmn  common_init_: fitting params to device memory ...
0.00.052.910 I load_tensors: loading model tensors, this can take a while... (load_mode = none)
0.00.052.912 I load_tensors: offloaded 5/5 layers to GPU
0.00.053.000 I load_tensors:          CPU model buffer size =     0.00 MiB
0.00.053.100 I load_tensors:        CUDA0 model buffer size =     0.00 MiB
"""
_LOADING: Final = "0.00.060.346 I load_tensors: loading model tensors, this can take a while... (load_mode = mmap)\n"

USUAL: Final = _INFO.replace("verbosity = 4", "verbosity = 3") + _CUDA_INFO + _CPU_INFO
USUAL_CPU: Final = _INFO.replace("verbosity = 4", "verbosity = 3") + _CPU_INFO


def cuda(layers: int = 5, total: int = 5, *, devices: int = 1) -> str:
    """``layers`` of ``total`` on NVIDIA GPUs, after a dry load that found out whether they fit."""
    buffers = "".join(
        f"0.00.063.715 I load_tensors:        CUDA{index} model buffer size =   {409 / devices:.2f} MiB\n"
        for index in range(devices if layers else 0)
    )
    return (
        "ggml_cuda_init: found 1 CUDA devices (Total VRAM: 81079 MiB):\n"
        "  Device 0: NVIDIA H100 80GB HBM3, compute capability 9.0, VMM: yes, VRAM: 81079 MiB\n"
        f"{_INFO}{_CUDA_INFO}{_CPU_INFO}{_FITTING}"
        "0.00.055.910 I llama_model_load: using device CUDA0 (NVIDIA H100 80GB HBM3) (0000:19:00.0) - 80543 MiB free\n"
        f"{_LOADING}"
        f"0.00.063.502 I load_tensors: offloaded {layers}/{total} layers to GPU\n"
        f"{buffers}"
        "0.00.063.716 I load_tensors:   CPU_Mapped model buffer size =    23.11 MiB\n"
        "0.00.070.200 I llama_context:  CUDA_Host  output buffer size =     0.58 MiB\n"
        "0.00.070.300 I llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB\n"
    )


def rocm() -> str:
    """Everything on an AMD GPU."""
    return cuda().replace("CUDA", "ROCm").replace("NVIDIA H100 80GB HBM3", "AMD Instinct MI300X")


DRAFT: Final = cuda(33, 33) + cuda(12, 13).partition(_LOADING)[0] + _LOADING + cuda(12, 13).partition(_LOADING)[2]
"""A model and its draft model, of which a layer is left out."""

ON_CPU: Final = (
    f"{_INFO}{_CPU_INFO}{_LOADING}0.00.063.716 I load_tensors:   CPU_Mapped model buffer size =   432.11 MiB\n"
)
"""A build without GPUs: it does not even say how many layers it did not put there."""

DRIVER_TOO_OLD: Final = (
    "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version\n"
    "warning: no usable GPU found, --gpu-layers option will be ignored\n"
    "warning: one possible reason is that llama.cpp was compiled without GPU support\n" + ON_CPU
)
NO_DEVICE: Final = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n" + ON_CPU
NO_LIBRARY: Final = (
    "ggml_backend_load_best: failed to load /app/libggml-cuda.so: libcudart.so.13: cannot open shared object file: "
    "No such file or directory\n" + ON_CPU
)
ONLY_SAYS_SO: Final = (
    "llm_load_tensors: offloading 18 repeating layers to GPU\n"
    "llm_load_tensors: offloaded 19/19 layers to GPU\n"
    "llm_load_tensors:        CPU buffer size =  1420.21 MiB\n"
)
"""Seen in the wild: all is said to be on the GPU, and the one buffer there is is the CPU's."""

OLD: Final = (
    "ggml_cuda_init: found 1 CUDA devices:\n"
    "  Device 0: NVIDIA RTX A6000, compute capability 8.6, VMM: yes\n"
    "llm_load_tensors: offloading 61 repeating layers to GPU\n"
    "llm_load_tensors: offloaded 62/62 layers to GPU\n"
    "llm_load_tensors:        CPU buffer size =   499.50 MiB\n"
    "llm_load_tensors:      CUDA0 buffer size = 17284.05 MiB\n"
)
"""As builds of 2024 printed it."""
