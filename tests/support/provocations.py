"""Failures brought about for real, each by the library that fails: their words, by code, as JSON."""

import ctypes
import http.server
import json
import os
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock


def main(demo: Path) -> None:
    """Provoke everything and print what was said.

    Args:
        demo: the demo model, in LLaVA's own format.
    """
    said = {}
    for provoke in PROVOCATIONS:
        try:
            provoke(demo)
        except Exception:  # noqa: BLE001 - what it says is the point
            said[provoke.__name__.replace("_", "-")] = traceback.format_exc()
    sys.stdout.write(json.dumps(said))


def shard_truncated(demo: Path) -> None:
    import torch

    whole = (demo / "pytorch_model-00001-of-00002.bin").read_bytes()
    with tempfile.NamedTemporaryFile(suffix=".bin") as cut:
        cut.write(whole[: len(whole) // 2])
        cut.flush()
        torch.load(cut.name, weights_only=True)


def weights_only_refused(_demo: Path) -> None:
    import pickle

    import torch

    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        torch.save({"weight": Path("a path is no tensor")}, file.name, pickle_module=pickle)
        torch.load(file.name, weights_only=True)


def tower_asked_from_hub(_demo: Path) -> None:
    from transformers import CLIPVisionModel

    CLIPVisionModel.from_pretrained("openai/clip-vit-large-patch14-336")


def model_path_not_found(_demo: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained("./models/llava-v1.5-7b")


def original_in_transformers(demo: Path) -> None:
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as folder:
        config = json.loads((demo / "config.json").read_text())
        Path(folder, "config.json").write_text(json.dumps(config | {"model_type": "llava_llama"}))
        AutoConfig.from_pretrained(folder)


def processor_without_patch_size(_demo: Path) -> None:
    from PIL import Image
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    words = Tokenizer(WordLevel({"a": 0, "<image>": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a")
    processor = LlavaProcessor(LlavaImageProcessorPil(), tokenizer)
    processor(images=Image.new("RGB", (8, 8)), text="<image> a", return_tensors="pt")


def no_gpu_found(_demo: Path) -> None:
    import torch

    torch.zeros(1).cuda()


def out_of_memory_killer(_demo: Path) -> None:
    import torch

    torch.empty(1 << 60, dtype=torch.uint8)


def meta_tensor(_demo: Path) -> None:
    import torch

    torch.empty(1, device="meta").to("cpu")


def hub_unreachable(_demo: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("liuhaotian/llava-v1.5-7b", "config.json")


def port_taken(_demo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        socket.create_server(taken.getsockname())


def shared_library_missing(_demo: Path) -> None:
    ctypes.CDLL("libcudart.so.99")


def no_space_left(_demo: Path) -> None:
    with Path("/dev/full").open("w") as full:
        full.write("x")


def proxy_on_loopback(_demo: Path) -> None:
    import httpx

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            httpx.get("https://localhost:1", proxy=f"http://127.0.0.1:{proxy.server_port}")
        finally:
            proxy.shutdown()


def environment_breaks_libraries(_demo: Path) -> None:
    import httpx

    with mock.patch.dict(os.environ, {"ALL_PROXY": "carrier://127.0.0.1:9"}):
        httpx.Client()


PROVOCATIONS: tuple[Callable[[Path], None], ...] = (
    shard_truncated,
    weights_only_refused,
    tower_asked_from_hub,
    model_path_not_found,
    original_in_transformers,
    processor_without_patch_size,
    no_gpu_found,
    out_of_memory_killer,
    meta_tensor,
    hub_unreachable,
    port_taken,
    shared_library_missing,
    no_space_left,
    proxy_on_loopback,
    environment_breaks_libraries,
)

if __name__ == "__main__":
    main(Path(sys.argv[1]))
