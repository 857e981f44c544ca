"""The demo's recipe, with its model on a Hub: what a published model goes through."""

import re
import shutil
from pathlib import Path

from llava_pack.shipped import shipped

MODEL, TOWER = "somebody/llava-v1-demo", "somebody/clip-demo"
_SOURCES = {
    "dir:demo-model/llava-v1-demo": f"hf:{MODEL}@main",
    "dir:demo-model/clip-demo": f"hf:{TOWER}@main",
}


def hub_recipe(folder: Path) -> Path:
    """Write the demo's recipe with sources on a Hub and no digests; return its file.

    Args:
        folder: made if it is not there; the pictures of the known answers lie in it too.
    """
    bundles = shipped("bundles")
    text = re.sub(
        r"^files = \[\n.*?^\]\n",
        "",
        (bundles / "demo.toml").read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    for here, there in _SOURCES.items():
        assert here in text
        text = text.replace(here, there)
    shutil.copytree(bundles / "known-answers", folder / "known-answers", dirs_exist_ok=True)
    path = folder / "demo.toml"
    path.write_text(text)
    return path
