"""The largest difference of logits from LLaVA's own recorded ones, family by family.

    python benchmarks/parity.py

The tests assert at most 1e-5; this tells how far away from that each family is.
"""

import tempfile
from pathlib import Path

import numpy as np

from llava_pack.engine.loading.load import load_engine
from tests.functional.test_parity import golden, logits, recorded_logits
from tests.support.families import FAMILIES, make


def main() -> None:
    for name, family in FAMILIES.items():
        recorded = golden(name)["chats"]
        with tempfile.TemporaryDirectory() as folder:
            made = make(family, Path(folder))
            engine = load_engine(
                made.model,
                model_base=made.base,
                precision="fp32",
                slots=1,
                conv_mode=family.conv_mode,
            )
            most = max(
                np.abs(logits(engine, chat) - recorded_logits(recorded[asked])).max()
                for asked, chat in family.asked.items()
            )
        print(f"{name:<16}{most:.1e}")


if __name__ == "__main__":
    main()
