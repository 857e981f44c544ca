"""Write docs/reference/known-failures.md from the knowledge base."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llava_pack.health.knowledge import known_failures  # noqa: E402
from tests.support.provoked import PROVOKED  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "known-failures.md"
_HEAD = """# Known failures

What `llava-pack explain` knows, in English and Chinese; `health` and every command that fails name
the one that they show. This page is made from `llava_pack/health/knowledge.toml`: `make reference`.

*Provoked by* says which test brings the failure about for real and holds what is said against the
signature. The others are held against the recorded words of the program
(`tests/fixtures/failures/symptoms.toml`): most need a GPU, another machine or an old release.

| code | what it is | provoked by |
|---|---|---|
"""


def page() -> str:
    """Return the page."""
    rows = [
        f"| `{one.id}` | {one.advice['en'].title} | {PROVOKED.get(one.id, '')} |"
        for one in known_failures()
        if one.signatures
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
