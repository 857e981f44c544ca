"""Write docs/reference/known-failures.md from the knowledge base."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llava_pack.health.knowledge import known_failures  # noqa: E402
from tests.support.provoked import PROVOKED  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "known-failures.md"
_HEAD = """# Known failures

The errors that `llava-pack explain` recognises, in English and Chinese. `health`, and every command
that fails with one of them, prints its code. `make reference` generates this page from
`llava_pack/health/knowledge.toml`.

*Reproduced by* names the test that causes the failure for real and compares the output with the
signature. The other signatures are compared with recorded output of the program
(`tests/fixtures/failures/symptoms.toml`): most of them need a GPU, another machine or an old
release.

| code | failure | reproduced by |
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
