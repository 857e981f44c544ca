"""Shows which messages have no Chinese yet, and puts the catalogue in order.

    python .ci/chinese.py          lists messages without Chinese, ready to paste, and stale ones
    python .ci/chinese.py --tidy   writes both files again, sorted and without stale ones,
                                   and install.sh's words from them

Paste what is listed, with its `[new]`, at the end of `llava_pack/cli/zh.toml`, translate it,
then tidy.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.chinese import (  # noqa: E402 - the path is set above
    FILES,
    INSTALL_SH,
    catalogue_words,
    in_tables,
    with_block,
    without_translation,
)


def main() -> int:
    """Do what the arguments ask for and return how many messages lack Chinese."""
    words = catalogue_words()
    if "--tidy" in sys.argv[1:]:
        for file, tables in in_tables(words).items():
            lines = [_HEADS[file]]
            for table, entries in tables.items():
                lines.append(f"\n[{table}]")
                lines += [f"{_quoted(en)} = {_quoted(zh)}" for en, zh in entries.items()]
            file.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        INSTALL_SH.write_text(with_block(words), encoding="utf-8", newline="\n")
    missing, stale = without_translation(words)
    if missing:
        print("[new]")
    for text in missing:
        print(f'{_quoted(text)} = ""')
    for text in stale:
        print(f"# stale: {_quoted(text)}")
    return len(missing)


_HEADS = {
    FILES[0]: "# What the command line says, in Chinese. CONTRIBUTING.md: Add a message.",
    FILES[1]: "# What the installer says, in Chinese: it travels in every bundle.\n"
    "# CONTRIBUTING.md: Add a message.",
}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(bool(main()))
