"""Variables that change what llava-pack and its libraries do: what of them may be told."""

from collections.abc import Mapping
from typing import Any

from llava_pack.health.shapes import Form, Given, OneOf, Shape, Told

_SWITCH = OneOf(
    "0", "1", "true", "false", "True", "False", "on", "off", "yes", "no", "", other="set"
)
_GIVEN = Given()
_SHAPES: dict[str, Shape] = {
    **dict.fromkeys(
        (
            "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_XET",
            "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "GRADIO_ANALYTICS_ENABLED", "NO_COLOR",
            "LLAVA_PACK_GRAPHS", "TOKENIZERS_PARALLELISM", "CUDA_LAUNCH_BLOCKING",
            "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE", "PYTHONSAFEPATH",
            "UV_OFFLINE", "UV_NO_INDEX", "PIP_NO_INDEX", "UV_NATIVE_TLS",
        ),
        _SWITCH,
    ),
    "CUDA_VISIBLE_DEVICES": Form(r"(?:-?[0-9]{1,2}(?:,-?[0-9]{1,2}){0,31})?"),
    "NVIDIA_VISIBLE_DEVICES": Form(r"all|none|void|[0-9]{1,2}(?:,[0-9]{1,2}){0,31}"),
    "NVIDIA_DRIVER_CAPABILITIES": Form(
        r"(?:all|compute|utility|graphics|video|display)(?:,(?:compute|utility|graphics|video|display))*"
    ),
    "CUDA_DEVICE_ORDER": OneOf("PCI_BUS_ID", "FASTEST_FIRST", other="set"),
    "CUDA_MODULE_LOADING": OneOf("LAZY", "EAGER", other="set"),
    "OMP_NUM_THREADS": Form(r"[0-9]{1,4}"),
    "MKL_NUM_THREADS": Form(r"[0-9]{1,4}"),
    "SOURCE_DATE_EPOCH": Form(r"[0-9]{1,10}"),
    "WATCHDOG_USEC": Form(r"[0-9]{1,12}"),
    "LANG": Form(r"C|POSIX|C\.UTF-8|(?:en|zh|de|fr|es|ja|ko)_[A-Z]{2}(?:\.UTF-8|\.utf8)?"),
    "LC_ALL": Form(r"C|POSIX|C\.UTF-8|(?:en|zh|de|fr|es|ja|ko)_[A-Z]{2}(?:\.UTF-8|\.utf8)?"),
    **dict.fromkeys(
        (
            "LLAVA_PACK_CACHE", "LLAVA_PACK_PREFIX", "HF_ENDPOINT", "HF_TOKEN", "HF_HOME",
            "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "LD_LIBRARY_PATH",
            "LD_PRELOAD", "CUDA_HOME", "CUDA_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP",
            "VIRTUAL_ENV", "CONDA_PREFIX", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
            "http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
            "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC", "UV_INDEX", "UV_INDEX_URL",
            "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_API_TOKEN",
            "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONFIG_FILE",
            "UV_PYTHON_INSTALL_MIRROR", "UV_PYTHON_DOWNLOADS_JSON_URL", "PIP_INDEX_URL",
            "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "XDG_DATA_HOME",
            "XDG_STATE_HOME", "XDG_CACHE_HOME", "NOTIFY_SOCKET", "SSH_CONNECTION", "TZ",
        ),
        _GIVEN,
    ),
}  # fmt: skip
_FAMILIES = ("LLAVA_PACK_", "HF_", "CUDA_", "NVIDIA_", "LD_", "PYTHON", "OMP_", "UV_", "PIP_")


class Settings:
    """The shape of an environment: values of a harmless form, of the others that they are set."""

    def admit(self, value: Any, told: Told) -> Any:
        """Return the variables that are known."""
        if not isinstance(value, Mapping):
            return told.stays()
        shown = {name: _value(name, value[name], told) for name in sorted(_SHAPES) if name in value}
        others = sum(name.startswith(_FAMILIES) and name not in _SHAPES for name in value)
        told.left_out[told.document] += others
        return {"variables": shown, "others_of_their_families": others}


def _value(name: str, said: str, told: Told) -> Any:
    shape = _SHAPES[name]
    shown = shape.admit(said, Told(salt=told.salt))
    return shown if isinstance(shown, str) else "set, not shown"
