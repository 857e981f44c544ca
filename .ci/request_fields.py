"""Write docs/reference/request-fields.md: what becomes of every field of a client's request."""

import json
import sys
import tomllib
from pathlib import Path

from ollama import Options
from ollama._types import ChatRequest as TheirChat
from ollama._types import GenerateRequest
from openai.types.chat import completion_create_params as chats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llava_pack.serve.api.ollama_wire import (  # noqa: E402
    HARMLESS_OPTIONS,
    REFUSED_OPTIONS,
    SAMPLER,
    OllamaChat,
    OllamaGenerate,
)
from llava_pack.serve.api.request_fields import HARMLESS, NEUTRAL, verdict  # noqa: E402
from llava_pack.serve.api.wire import ChatRequest  # noqa: E402

_REFUSED = ("suffix", "template", "context", "think")
_OLLAMA = """
## Ollama

Of `/api/chat` and `/api/generate`. `options.repeat_last_n` is harmless unless there is a
`repeat_penalty`: a repetition is looked for in all of the context. Options that Ollama does not
know either are ignored, as there.

| field | |
|---|---|
"""
PAGE = ROOT / "docs" / "reference" / "request-fields.md"
FIELDS = ROOT / "tests" / "fixtures" / "requests" / "fields.toml"
_NAMES = {"openai": "OpenAI", "vllm": "vLLM", "sglang": "SGLang"}
_HEAD = """# Fields of a request

What becomes of every field of `POST /v1/chat/completions` that clients of OpenAI, vLLM, SGLang or
llama.cpp may send: it is honoured, or it is refused with `param`, or it is harmless and ignored. A
field that is in none of the rows is refused. A field that is null says nothing. The fields of
`/v1/completions`, `/v1/responses` and Ollama's API become these. `make reference` generates this
page from `llava_pack/serve/api/request_fields.py`.

*Known to* says whose field it is; a dash means llama.cpp, another client, or an earlier release.

| field | known to | |
|---|---|---|
"""


def page() -> str:
    """Return the page."""
    others = tomllib.loads(FIELDS.read_text(encoding="utf-8"))
    servers = {
        "openai": {*chats.CompletionCreateParamsBase.__annotations__, "stream"},
        **{name: set(server["chat"]) for name, server in others.items()},
    }
    rows = []
    for name in sorted(ChatRequest.known() | set(HARMLESS) | set(NEUTRAL)):
        whose = [title for key, title in _NAMES.items() if name in servers[key]]
        rows.append(f"| `{name}` | {', '.join(whose) or '—'} | {_told(name)} |")
    return _HEAD + "\n".join(rows) + "\n" + _ollama()


def _ollama() -> str:
    fields = {*TheirChat.model_fields, *GenerateRequest.model_fields}
    rows = [f"| `{name}` | {_of_ollama(name)} |" for name in sorted(fields)]
    rows += [f"| `options.{name}` | {_option(name)} |" for name in sorted(Options.model_fields)]
    return _OLLAMA + "\n".join(rows) + "\n"


def _of_ollama(name: str) -> str:
    asked = [kind for kind in (OllamaChat, OllamaGenerate) if name in kind.known()]
    if asked:
        return "**honoured**" if name not in _REFUSED else "refused, except where it is empty"
    if name in OllamaChat.harmless:
        return "harmless"
    values = " or ".join(f"`{json.dumps(value)}`" for value in OllamaChat.neutral[name])
    return f"refused, except {values}"


def _option(name: str) -> str:
    if name in SAMPLER:
        return f"**honoured**, as `{SAMPLER[name]}`"
    if name in HARMLESS_OPTIONS:
        return "harmless"
    return "refused, except " + " or ".join(f"`{json.dumps(v)}`" for v in REFUSED_OPTIONS[name])


def _told(name: str) -> str:
    match verdict(ChatRequest, name):
        case "honoured":
            return "**honoured**"
        case "harmless":
            return f"harmless: {HARMLESS[name]}"
        case _:
            values = " or ".join(f"`{json.dumps(value)}`" for value in NEUTRAL[name] if value != "")
            return f"refused, except {values}" if values else "refused"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
