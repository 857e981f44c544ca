"""What llava-pack knows of an engine that others write, as values; a module beside this for each.

A profile is data and pure functions: nothing of an engine is imported, and nothing is started.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LOOPBACK = "127.0.0.1"
Layout = Literal["hf", "original"]
"""How a model's folder is written: as transformers does, or as LLaVA publishes it."""
Tool = Literal["cc", "nvcc"]
"""What an engine compiles with while it serves: a C compiler, or CUDA's and a C++ compiler."""
Way = Literal["unix", "loopback"]
"""Where an engine listens: at a Unix socket, or at a port of loopback behind a key."""
Spread = Literal["tensor", "pipeline"]
"""How a model lies on several GPUs: each layer on all of them, or one layer after the other."""

QUIET: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""What every engine is told, so that it looks nothing up and tells nobody."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version of an engine, and the machines that it is for.

    Attributes:
        version: of the engine.
        requirements: what the resolver is asked for; the engine at that version is among them.
        cuda: major version of what its torch brings; `none` for a CPU's.
        glibc_minor: the N of the oldest glibc 2.N that all its wheels install on.
        capability: the least compute capability that its torch has code for; empty for a CPU.
        pythons: minor versions of Python that all its wheels are for.
        arches: of machines.
        resolved: the moment as of which the resolver looks, so that old pins do not drift; empty
            for now.
        kernels: what it needs beside, to load weights that bitsandbytes quantized ahead.
    """

    version: str
    requirements: tuple[str, ...]
    cuda: Literal["none", "12", "13"]
    glibc_minor: int
    capability: str
    pythons: tuple[str, ...] = ("3.11", "3.12")
    arches: tuple[str, ...] = ("x86_64",)
    resolved: str = ""
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine's place among several that hold one model.

    Attributes:
        rank: 0 for the head.
        count: how many there are.
        head: address of the head on the private network.
        port: where the head is joined.
        own: address of this machine on the private network.
        interface: the network interface that has it.
    """

    rank: int
    count: int
    head: str
    port: int
    own: str
    interface: str


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One start of an engine: all that its command line and its environment are made of.

    Attributes:
        version: of the engine that is installed.
        python: the interpreter of its own environment.
        model_dir: absolute.
        tokenizer_dir: where tokenizer and processor lie, None for beside the weights.
        name: the model's, in the engine's API.
        architecture: as its `config.json` names it.
        precision: one of the profile's.
        device: `cuda` or `cpu`.
        context_tokens: None for the model's own.
        slots: requests that run at once.
        pictures: at most in one request.
        gpus: how many hold the model on this machine.
        socket: where it listens; None for at `port`.
        port: of loopback; 0 for at `socket`.
        folder: private to this start; everything else that it writes goes there.
        compiled: where it keeps what it compiles, for the next start if it can be.
        node: its place among several machines, None for alone.
    """

    version: str
    python: Path
    model_dir: Path
    tokenizer_dir: Path | None = None
    name: str
    architecture: str = ""
    precision: str
    device: str
    context_tokens: int | None
    slots: int
    pictures: int
    gpus: int = 1
    socket: Path | None = None
    port: int = 0
    folder: Path
    compiled: Path
    node: Node | None = None


def kept_of(launch: Launch) -> Mapping[str, str]:
    """Return where libraries that compile while they serve keep the result.

    Source: torch, "Compile Time Caching Configuration"; triton, `knobs.py`; CUDA, "Environment
    Variables"; FlashInfer, `jit/env.py`; TVM FFI, `cpp/extension.py`.
    """
    folders = {
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "CUDA_CACHE_PATH": "cuda",
        "FLASHINFER_WORKSPACE_BASE": "flashinfer",
        "TVM_FFI_CACHE_DIR": "tvm-ffi",
    }
    return {name: str(launch.compiled / folder) for name, folder in folders.items()}


def interface_of(launch: Launch) -> Mapping[str, str]:
    """Return what keeps NCCL and Gloo to one network interface: this machine's own, where alone.

    Source: NCCL, "Environment Variables"; torch, `torch.distributed`, "Common environment
    variables".
    """
    name = "lo" if launch.node is None else launch.node.interface
    return {"NCCL_SOCKET_IFNAME": name, "GLOO_SOCKET_IFNAME": name}


@dataclass(frozen=True, kw_only=True)
class MetricNames:
    """What an engine's own metrics are called; empty where it has none.

    Attributes:
        steps: a counter that grows with every step.
        running: requests that hold a slot.
        waiting: requests in its queue.
        kv_usage: part of the cache in use, from 0 to 1.
        prompt_tokens: a counter.
        generated_tokens: a counter.
        first_token_s: a histogram.
        token_gap_s: a histogram.
        prefix_queries: a counter of tokens that were looked up.
        prefix_hits: those that were found.
        picture_queries: a counter of pictures that were looked up.
        picture_hits: those that were found.
        step_tokens: a histogram.
    """

    steps: str
    running: str
    waiting: str
    kv_usage: str = ""
    prompt_tokens: str = ""
    generated_tokens: str = ""
    first_token_s: str = ""
    token_gap_s: str = ""
    prefix_queries: str = ""
    prefix_hits: str = ""
    picture_queries: str = ""
    picture_hits: str = ""
    step_tokens: str = ""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How an engine is asked over its OpenAI-compatible API.

    Attributes:
        request: fields that every request has beside what was asked for.
        sampling: of our settings those that it has, by our name, with its own field's.
        grammars: of our kinds of grammar those that it holds answers to, each with the field that
            it is given in, its parts between dots.
        endings: fields that say how a prompt ends: with a turn `opened`, the last one `continued`,
            or `closed`; one that is absent cannot be asked for.
        texts: whether it goes on with a text as it is, and has the same settings there.
        salt: field that keeps apart what is reused; empty where nothing is reused, or nothing
            keeps it apart.
        placeholders: texts of which it makes pictures or special tokens where a person types them,
            that of a picture first; those of a model come beside them.
        tokenize: path that tokenizes a conversation; empty where there is none.
    """

    request: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)
    grammars: Mapping[str, str] = field(default_factory=dict)
    endings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"opened": {}})
    texts: bool = False
    salt: str = ""
    placeholders: tuple[str, ...] = ()
    tokenize: str = ""


@dataclass(frozen=True, kw_only=True)
class Loads:
    """Which models an engine is for, and what it compiles with to serve them.

    Attributes:
        layouts: of a model's folder, the preferred one first.
        architectures: as `config.json` names them, that it loads without remote code.
        precisions: that it serves, by ours, with the options that each takes.
        quantized: methods of checkpoints quantized ahead (`quantization_config.quant_method`).
        needs: tools that it compiles with while it serves.
    """

    layouts: tuple[Layout, ...]
    architectures: frozenset[str]
    precisions: Mapping[str, tuple[str, ...]]
    quantized: frozenset[str] = frozenset()
    needs: frozenset[Tool] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One engine of the field.

    Attributes:
        package: whose version says which release is installed; it is in no other environment.
        releases: newest first.
        loads: the models that it is for.
        argv: the command line behind the interpreter, which begins with `-m` and a module.
        keys: options that end the command line with the same key each; only the process itself
            sees them, see `launcher`.
        environment: what is set in its environment beside the usual.
        way: where it listens.
        ready: path that answers 200 once it serves.
        dialect: how it is asked.
        metrics: what its counters are called.
        spreads: how it lays a model on several GPUs, the preferred one first.
        nodes: whether it spans several machines.
        term_s: how long it may take to end in good order.
    """

    package: str
    releases: tuple[Release, ...]
    loads: Loads
    argv: Callable[[Launch], tuple[str, ...]]
    keys: tuple[str, ...] = ()
    environment: Callable[[Launch], Mapping[str, str]]
    way: Way
    ready: str
    dialect: Dialect
    metrics: MetricNames
    spreads: tuple[Spread, ...] = ("tensor",)
    nodes: bool = False
    term_s: float
