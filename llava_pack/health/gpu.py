"""What NVIDIA's management library says of the GPUs: `python -m llava_pack.health.gpu`.

Run as a process of its own: a driver that hangs must not take the health check with it. One JSON
object on stdout. Whatever the library cannot tell is null.

Source: NVIDIA Management Library API reference; nvidia-ml-py.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llava_pack.health.facts import GpuFacts, GpuProcess, GpusFacts

_WITHIN_S = 2.0
_XID_LINES = 5
_THROTTLES = {
    "hardware slowdown": "nvmlClocksEventReasonHwSlowdown",
    "hardware too hot": "nvmlClocksEventReasonHwThermalSlowdown",
    "too hot": "nvmlClocksEventReasonSwThermalSlowdown",
    "power brake": "nvmlClocksEventReasonHwPowerBrakeSlowdown",
}


def probe_gpus(python: Path = Path(sys.executable)) -> GpusFacts:
    """Return what the driver tells, asked by a process of its own.

    Args:
        python: an interpreter whose environment has llava-pack.
    """
    command = [str(python), "-m", "llava_pack.health.gpu"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_WITHIN_S, check=True
        )
        said = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return GpusFacts(error=f"the driver did not answer within {_WITHIN_S:g} s")
    except (OSError, ValueError, subprocess.SubprocessError):
        return GpusFacts(error="the driver could not be queried")
    gpus = tuple(
        GpuFacts(**{**one, "processes": tuple(GpuProcess(**p) for p in one["processes"])})
        for one in said["gpus"]
    )
    return GpusFacts(
        driver=said["driver"], error=said["error"], gpus=gpus, xids=tuple(said["xids"])
    )


def main() -> int:
    """Print what the library says."""
    said: dict[str, Any] = {"driver": None, "error": "", "gpus": [], "xids": []}
    try:
        import pynvml
    except ImportError:
        said["error"] = "nvidia-ml-py is not installed"
    else:
        try:
            said |= read_gpus(pynvml)
        except pynvml.NVMLError as error:
            absent = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
            said["error"] = "" if error.value in absent else str(error)
            said["driver"] = None
        else:
            said["xids"] = _xids()
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


def read_gpus(nvml: Any) -> Mapping[str, Any]:
    """Return the driver's version and what it says of each GPU.

    Args:
        nvml: the module `pynvml`.
    """
    nvml.nvmlInit()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "gpus": [_gpu(nvml, index, handle) for index, handle in enumerate(handles)],
        }
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int, handle: Any) -> Mapping[str, Any]:
    def told(ask: Callable[[], Any]) -> Any:
        with contextlib.suppress(nvml.NVMLError):
            return ask()
        return None

    memory = told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    reasons = told(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    rows = told(lambda: nvml.nvmlDeviceGetRemappedRows(handle))
    running = told(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return {
        "index": index,
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "total_bytes": memory.total if memory else None,
        "free_bytes": memory.free if memory else None,
        "temperature_c": told(
            lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        ),
        "slowdown_c": told(
            lambda: nvml.nvmlDeviceGetTemperatureThreshold(
                handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
            )
        ),
        "throttles": [
            name for name, flag in _THROTTLES.items() if (reasons or 0) & getattr(nvml, flag)
        ],
        "ecc_uncorrected": told(
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
        ),
        "remap_pending": bool(rows[2]) if rows else None,
        "remap_failed": bool(rows[3]) if rows else None,
        "processes": [{"pid": one.pid, "used_bytes": one.usedGpuMemory} for one in running],
    }


def _xids() -> list[str]:
    """Return the last lines about GPU errors in the kernel's log, where it may be read."""
    try:
        done = subprocess.run(
            ["dmesg"], capture_output=True, text=True, errors="replace", timeout=1, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if "NVRM: Xid" in line][-_XID_LINES:]


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    sys.exit(main())
