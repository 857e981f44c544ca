"""The runtimes by name, and what both sides of the gap know of each.

`llava_pack.assemble.runtimes` says how each is packed, the module that is named here how it serves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llava_pack.format.manifest import Engine
from llava_pack.profiles import lmdeploy, sglang, vllm
from llava_pack.profiles.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What serves a bundle's model.

    Attributes:
        title: as people are told of it.
        serving: module with its `RUNTIME`, None for llava-pack's own engine.
        package: one that is in its environments and in no other's; empty for llava-pack's own.
        cpu_precision: the only one that it has without a GPU, None where it has any.
        profile: of an engine of the field, which has an environment of its own; else None.
    """

    title: str
    serving: str | None = None
    package: str = ""
    cpu_precision: Literal["fp16"] | None = None
    profile: Profile | None = None

    @property
    def gateway(self) -> bool:
        """Whether llava-pack's own stands before it: the OpenAI-compatible API, and orders."""
        return self.serving is None


RUNTIMES: Mapping[Engine, Runtime] = {
    "transformers": Runtime(title="llava-pack's engine"),
    "upstream": Runtime(
        title="LLaVA's own code",
        serving="llava_pack.llava_serve.runtime",
        package="llava",
        cpu_precision="fp16",
    ),
    "vllm": Runtime(title="vLLM", profile=vllm.PROFILE),
    "sglang": Runtime(title="SGLang", profile=sglang.PROFILE),
    "lmdeploy": Runtime(title="LMDeploy", profile=lmdeploy.PROFILE),
}
