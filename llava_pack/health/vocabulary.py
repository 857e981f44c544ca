"""Names that everybody has: what a support bundle may call by its name. Pure data.

A name that is missing here is not told, which costs whoever helps a detail. A name that does not
belong here could tell something about the person: only what is published under it is listed.
"""

from pathlib import Path

from llava_pack.format.precision import PRECISION_CHOICES
from llava_pack.health.shapes import Begins, Either, Form, Name, Number, OneOf, Words
from llava_pack.runtimes import RUNTIMES


def words(text: str) -> frozenset[str]:
    """Return the words of a text.

    >>> sorted(words("a b"))
    ['a', 'b']
    """
    return frozenset(text.split())


RECIPES = words(
    "bakllava-v1-hf demo internvl2-2b internvl2_5-4b internvl3-8b "
    "llama3-llava-next-8b-hf llava-1.5-13b-hf llava-1.5-7b-hf llava-budget "
    "llava-interleave-qwen-0.5b-hf llava-llama-3-8b-v1_1 llava-med-v1.5-mistral-7b "
    "llava-onevision-qwen2-0.5b-ov-hf llava-onevision-qwen2-7b-ov-hf llava-v1.5-13b llava-v1.5-7b "
    "llava-v1.5-7b-lora llava-v1.6-34b llava-v1.6-mistral-7b llava-v1.6-mistral-7b-hf "
    "llava-v1.6-vicuna-13b llava-v1.6-vicuna-7b llava-v1.6-vicuna-7b-hf"
)
"""The shipped ones; a test holds this against `bundles/`."""
MODELS = RECIPES | words(
    "llava-v1-demo clip-demo clip-vit-large-patch14-336 clip-vit-base-patch32 vicuna-7b-v1.5 "
    "TinyLlama-1.1B-Chat-v1.0 InternVL2-2B InternVL2_5-4B InternVL3-8B-hf"
)
"""Folders of the shipped recipes' models, bases and towers."""
ANSWERS = frozenset({"red-circle", "blue-square", "two-stars", "digit-seven"})
LICENCES = frozenset(
    {"Apache-2.0", "Llama-2-Community", "Llama-3-Community", "Tongyi-Qianwen-Research"}
    | {"MIT", "Qwen-Research"}
)

PACKAGES = words(
    "accelerate aiofiles annotated-doc annotated-types anyio bitsandbytes brotli certifi "
    "charset-normalizer click cuda-bindings cuda-pathfinder fastapi ffmpy filelock fsspec gradio "
    "gradio-client groovy h11 hf-gradio hf-xet httpcore httpcore2 httpx httpx2 huggingface-hub "
    "idna jinja2 llava-pack llava-torch llguidance markdown-it-py markupsafe mdurl mpmath "
    "networkx numpy "
    "nvidia-cublas nvidia-cublas-cu12 nvidia-cuda-cupti nvidia-cuda-cupti-cu12 nvidia-cuda-nvrtc "
    "nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime nvidia-cuda-runtime-cu12 nvidia-cudnn-cu12 "
    "nvidia-cudnn-cu13 nvidia-cufft nvidia-cufft-cu12 nvidia-cufile nvidia-cufile-cu12 "
    "nvidia-curand nvidia-curand-cu12 nvidia-cusolver nvidia-cusolver-cu12 nvidia-cusparse "
    "nvidia-cusparse-cu12 nvidia-cusparselt-cu12 nvidia-cusparselt-cu13 nvidia-ml-py "
    "nvidia-nccl-cu12 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvjitlink-cu12 nvidia-nvshmem-cu12 "
    "nvidia-nvshmem-cu13 nvidia-nvtx nvidia-nvtx-cu12 orjson packaging pandas pillow pip protobuf "
    "psutil pydantic pydantic-core pydub pygments python-dateutil python-multipart pytz pyyaml "
    "regex requests rich ruff safehttpx safetensors semantic-version sentencepiece setuptools "
    "shellingham six sniffio socksio starlette sympy timm tokenizers tomlkit torch torchvision "
    "tqdm transformers triton truststore typer typing-extensions typing-inspection tzdata urllib3 "
    "uv uvicorn websockets wheel"
)
"""What the locks of the shipped recipes resolve to."""
MODULES = frozenset(name.replace("-", "_") for name in PACKAGES) | {
    "PIL", "asyncio", "concurrent", "ctypes", "google", "http", "importlib", "json", "llava",
    "logging", "multiprocessing", "pathlib", "pickle", "pynvml", "runpy", "select",
    "selectors", "shutil", "socket", "ssl", "subprocess", "tempfile", "threading", "yaml",
    "zipfile",
}  # fmt: skip
"""What a stack names."""
EXCEPTIONS = words(
    "ArithmeticError AssertionError AttributeError BlockingIOError BrokenPipeError BufferError "
    "CancelledError ChildProcessError ConnectionAbortedError ConnectionError "
    "ConnectionRefusedError ConnectionResetError EOFError Exception FileExistsError "
    "FileNotFoundError FloatingPointError ImportError IndexError InterruptedError "
    "IsADirectoryError "
    "JSONDecodeError KeyError KeyboardInterrupt LookupError MemoryError ModuleNotFoundError "
    "NameError NotADirectoryError NotImplementedError OSError OverflowError PermissionError "
    "ProcessLookupError RecursionError RuntimeError SSLError StopIteration SyntaxError SystemExit "
    "TimeoutError TypeError UnicodeDecodeError UnicodeEncodeError UnpicklingError ValueError "
    "ZeroDivisionError gaierror BadZipFile CalledProcessError TimeoutExpired "
    "AcceleratorError ConnectError ConnectTimeout GatedRepoError HTTPException HTTPStatusError "
    "HfHubHTTPError LocalEntryNotFoundError NVMLError OfflineModeIsEnabled OutOfMemoryError "
    "ProxyError PydanticSchemaGenerationError ReadTimeout RepositoryNotFoundError SafetensorError "
    "UnidentifiedImageError ValidationError "
    "AccessError CannotVerifyError CheckpointError DowngradeError FetchError InstallError "
    "IntegrityError NetworkError OverloadedError PackError PreflightError RecipeError ServeError "
    "SignatureError SpaceError UsageError"
)
FILES = (
    r"config\.json|generation_config\.json|preprocessor_config\.json|processor_config\.json|"
    r"adapter_config\.json|chat_template\.(?:jinja|json)|tokenizer(?:_config)?\.json|"
    r"tokenizer\.model|special_tokens_map\.json|added_tokens\.json|mm_projector\.bin|"
    r"non_lora_trainables\.bin|(?:model|pytorch_model|adapter_model)(?:-\d{5}-of-\d{5})?"
    r"\.(?:safetensors|bin)(?:\.index\.json)?"
)
"""Of a checkpoint; a pattern."""
OWN_FILES = ("MANIFEST.json", "SHA256SUMS", "seal.json", "receipt.json", "receipt.txt")

ROUTES = frozenset(
    f"{method} {path}"
    for path in (
        "/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/observe", "/llava",
        "/llava/", "/livez", "/readyz", "/startupz", "/metrics", "/login", "/",
    )
    for method in ("GET", "POST", "HEAD", "OPTIONS")
)  # fmt: skip

DISTRIBUTIONS = (
    r"(?:Ubuntu|Debian GNU/Linux|Red Hat Enterprise Linux(?: Server)?|Rocky Linux|AlmaLinux|"
    r"CentOS (?:Linux|Stream)|SUSE Linux Enterprise Server|openSUSE Leap|Fedora Linux|Alpine Linux|"
    r"Amazon Linux|Oracle Linux Server|Arch Linux|NixOS|Kylin Linux|openEuler|Anolis OS)"
    r"(?: v?[0-9]{1,2}(?:\.[0-9]{1,2}){0,2})?"
)
FILESYSTEMS = (
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "nfs", "nfs4", "cifs",
    "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "overlay", "tmpfs", "vfat", "exfat", "9p",
)  # fmt: skip
CPU_FLAGS = words(
    "sse4_2 avx avx2 f16c fma avx512f avx512bw avx512vl avx512_vnni avx512_bf16 amx_tile amx_bf16 "
    "amx_int8 asimd asimdhp asimddp bf16 i8mm sve sve2"
)
"""Those that decide what a build of torch can run, and how fast."""
TOOLS = words(
    "sha256sum openssl ssh-keygen tar gzip base64 find awk sed grep mktemp flock rsync systemctl "
    "tmux screen cc"
)

VERSION = (
    r"[0-9]{1,8}(?:\.[0-9]{1,8}){0,2}(?:(?:a|b|rc)[0-9]{1,3})?(?:\.?post[0-9]{1,3})?"
    r"(?:\.?dev[0-9]{1,8})?(?:\+(?:cu[0-9]{2,3}|cpu|rocm[0-9.]{1,6}))?"
)
"""With three numbers at most: four could be an address."""
DECIMAL = r"-?[0-9]{1,15}(?:\.[0-9]{1,12})?(?:e[+-]?[0-9]{1,3})?"
DIGEST = r"[0-9a-f]{64}"

COUNT = Number()
SECONDS = Number(0, 4_000_000_000)
VERSION_TEXT = Form(VERSION)
DIGEST_TEXT = Form(DIGEST)
LEADING_VERSION = Begins(r"[0-9]{1,4}(?:\.[0-9]{1,6}){1,2}")
PACKAGE_VERSION = Either(VERSION_TEXT, Begins(r"[0-9]{1,4}\.[0-9]{1,4}"))
RECIPE = Name("recipe", RECIPES)
MODEL = Name("model", MODELS)
ANSWER = Name("answer", ANSWERS)
LICENCE = Name("licence", LICENCES)
PACKAGE = Name("package", PACKAGES)
ARCH = OneOf("x86_64", "aarch64", "arm64", "ppc64le")
DEVICE = OneOf("cpu", "cuda", "auto")
PRECISION = OneOf(*PRECISION_CHOICES)
ENGINE = OneOf(*RUNTIMES)
GPU_NAME = Words(
    words(
        "NVIDIA Tesla GeForce Quadro TITAN GRID GTX RTX Ti SUPER Ada Generation Blackwell Server "
        "Workstation Edition Max-Q Laptop GPU Pro PRO Graphics Device PCIe Xp Orin Thor MIG seen "
        "on the PCI bus, none NVL HBM3 HBM3e 1050 1060 1070 1080 1650 1660 2000 2050 2060 2070 "
        "2080 3000 3050 3060 3070 3080 3090 3500 4000 4050 4060 4070 4080 4090 4500 5000 5050 "
        "5060 5070 5080 5090 5880 6000 8000"
    ),
    r"[A-Z]{1,2}[0-9]{1,4}[A-Z]?(?:-(?:[0-9]{1,3}[A-Z]{1,2}|SXM[0-9]?|PCIE|NVL|HBM[0-9]e?)){0,3}|"
    r"[0-9]{1,3}GB",
    2,
)
CPU_NAME = Words(
    words(
        "Intel(R) Xeon(R) Core(TM) Platinum Gold Silver Bronze AMD EPYC Ryzen Threadripper PRO "
        "Processor CPU ARM Neoverse @"
    ),
    r"[0-9]{4,5}[A-Z+]{0,2}|i[3579]-[0-9]{4,5}[A-Z]{0,2}",
    1,
)


def own_files() -> frozenset[str]:
    """Return the files of the running package, as a stack would name them."""
    root = Path(__file__).resolve().parent.parent
    return frozenset(path.relative_to(root.parent).as_posix() for path in root.rglob("*.py"))
