"""Which conversation template a checkpoint was trained with, and whether it can be used. Pure.

What was typed comes first. Else a converted checkpoint is asked in the way of its own chat
template; any other in the one that its name tells, or what it was trained from, or its language
model, or, last, its chat template. Where nothing tells it, nobody guesses: the wrong template
spoils every answer and looks like a bad model.

Source: haotian-liu/LLaVA llava/serve/cli.py (which name takes which template), llava/mm_utils.py
get_model_name_from_path; LLaVA-VL/LLaVA-NeXT docs/LLaVA-NeXT.md and LLaVA_OneVision.md.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.chat_template import ChatTemplate
from llava_pack.checkpoint.chat_template_trial import read_chat_template
from llava_pack.checkpoint.config import read_config
from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.folder import checkpoint_name
from llava_pack.checkpoint.kind import Kind, backbone
from llava_pack.checkpoint.special_tokens import (
    NO_TOKENS,
    SpecialTokens,
    check_rows,
    read_special_tokens,
)
from llava_pack.checkpoint.templates import OWN, RAW, TEMPLATES, template
from llava_pack.format.errors import CheckpointError

_BY_NAME = (
    ("llama-2", "llava_llama_2"),
    ("llava-llama-3", "llama_3"),
    ("llama-3", "llava_llama_3"),
    ("llama3", "llava_llama_3"),
    ("phi-3", "phi3"),
    ("phi3", "phi3"),
    ("gemma", "gemma_instruct"),
    ("qwen", "qwen_1_5"),
    ("mistral", "mistral_instruct"),
    ("v1.6-34b", "chatml_direct"),
    ("v1", "llava_v1"),
    ("llava-1.5", "llava_v1"),
    ("mpt", "mpt"),
    ("v0", "llava_v0"),
    ("vicuna", "llava_v1"),
)
_FAMILIES = ("llava", "vicuna")
"""A bare `v1` or `v0` tells a template only where it is the version of one of these."""
_BY_LANGUAGE = {
    "mistral": "mistral_instruct",
    "mpt": "mpt",
    "gemma": "gemma_instruct",
    "phi3": "phi3",
    "qwen": "qwen_1_5",
    "qwen2": "qwen_1_5",
}
_LLAMA_3_WORDS = 128_000
"""Llama 3 has so many and some special ones; Llama 1 and 2, and so Vicuna, 32000."""
_TRAINED_FROM = ("_name_or_path", "base_model_name_or_path")
_HINT = (
    "pass it with --conv-mode, or as conv_mode in a recipe: llava_v1 for what was trained on Vicuna"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateChoice:
    """How a checkpoint is asked.

    Attributes:
        conv_mode: the name of the template.
        chat_template: the checkpoint's own, where it has one that can be used.
        tokens: the special tokens of its vocabulary.
    """

    conv_mode: str
    chat_template: ChatTemplate | None = None
    tokens: SpecialTokens = NO_TOKENS


def choose_template(
    folder: Path,
    *,
    texts: Path | None = None,
    name: str | None = None,
    converted: bool = False,
    wanted: str | None = None,
) -> TemplateChoice:
    """Return how a checkpoint is asked, from its small files.

    Args:
        folder: of the model; its name tells much.
        name: of the model, where it is not the folder's.
        texts: the folder with the tokenizer, where it is another: the base of an adapter.
        converted: it is in transformers' own layout.
        wanted: what was typed.

    Raises:
        CheckpointError: no template can be known, or its tokens are not in the vocabulary.
        UsageError: what was typed is no template.
    """
    texts = texts or folder
    tokens = read_special_tokens(texts)
    config = read_config(folder / "config.json")
    own, defect = None, None
    if wanted in {None, OWN}:
        try:
            own = read_chat_template(texts)
            rowless = (tokens or NO_TOKENS).rowless(_text_part(config).get("vocab_size"))
            if own is not None and rowless:
                check_rows(own.written(rowless), OWN, checkpoint_name(Path(name or folder)))
        except CheckpointError as error:
            if wanted == OWN:
                raise
            own, defect = None, error.message
    conv_mode = conv_mode_of(
        known_names(
            (Path(name or folder), texts), (config, read_config(folder / "adapter_config.json"))
        ),
        config,
        tokens=tokens,
        own=own is not None,
        converted=converted,
        wanted=wanted,
        because=defect,
    )
    return TemplateChoice(conv_mode=conv_mode, chat_template=own, tokens=tokens or NO_TOKENS)


def template_defects(folder: Path, kind: Kind) -> list[Defect]:
    """Return a warning where no template is known; a damaged tokenizer is told by itself.

    The warning stops nothing here: whoever loads or packs the model can say the template. What an
    adapter or a projector lacks, its base may have.
    """
    if kind not in {Kind.ORIGINAL, Kind.CONVERTED}:
        return []
    try:
        read_special_tokens(folder)
    except CheckpointError:
        return []
    try:
        choose_template(folder, converted=kind is Kind.CONVERTED)
    except CheckpointError as error:
        return [replace(defect_of(error), level="warn")]
    return []


def conv_mode_of(
    names: Sequence[str],
    config: Mapping[str, Any],
    *,
    tokens: SpecialTokens | None = None,
    own: bool = False,
    converted: bool = False,
    wanted: str | None = None,
    because: str | None = None,
) -> str:
    """Return the name of a checkpoint's conversation template.

    Args:
        names: its own, and of what it was trained from; the first is what messages call it.
        config: its config.json.
        tokens: those of its vocabulary, None where they are not known.
        own: it has a chat template that can be used.
        converted: it is in transformers' own layout.
        wanted: what was typed.
        because: why its chat template cannot be used.

    Raises:
        CheckpointError: no template can be known, or its tokens are not in the vocabulary.
        UsageError: what was typed is no template.

    >>> conv_mode_of(["llava-v1.5-7b"], {}), conv_mode_of(["mine", "lmsys/vicuna-7b-v1.5"], {})
    ('llava_v1', 'llava_v1')
    """
    texts = tokens.texts if tokens else None
    rowless = (tokens or NO_TOKENS).rowless(_text_part(config).get("vocab_size"))
    if wanted == OWN and not own:
        raise CheckpointError(
            "it has no chat template of its own",
            subject=names[0],
            hint=f"leave it out, or use one of: {_fitting(texts)}",
        )
    if wanted is not None:
        return _usable(wanted, texts, names[0], rowless)
    defects = [f"its chat template: {because}"] if because else []
    for conv_mode in _candidates(names, config, own=own, converted=converted):
        try:
            return _usable(conv_mode, texts, names[0], rowless)
        except CheckpointError as error:
            defects.append(error.message)
    raise CheckpointError(
        "its conversation template is not known: neither its name, nor config.json, nor a chat "
        f"template tells it; expected one of: {_fitting(texts)}"
        + "".join(f"; {defect}" for defect in dict.fromkeys(defects)),
        subject=names[0],
        hint=_HINT,
    )


def known_names(folders: Iterable[Path], configs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return a checkpoint's names: of its folders, and of what it was trained from.

    A run's checkpoint has the run's name with its own, a snapshot in the Hub's cache the model's.

    >>> known_names([Path("out/checkpoint-90")], [{"_name_or_path": "lmsys/vicuna-7b-v1.5"}])
    ('out_checkpoint-90', 'vicuna-7b-v1.5')
    """
    origins = (Path(name) for config in configs for name in _origins(config))
    return tuple(dict.fromkeys(checkpoint_name(one) for one in (*folders, *origins)))


def _origins(config: Mapping[str, Any]) -> Iterator[str]:
    for values in (config, _text_part(config)):
        for key in _TRAINED_FROM:
            name = values.get(key)
            if isinstance(name, str) and name.strip("./"):
                yield name


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else config


def by_name(name: str) -> str | None:
    """Return the template that a name tells, as LLaVA reads it; None where it tells none.

    >>> by_name("llava-v1.6-mistral-7b"), by_name("my-v1"), by_name("my-finetune")
    ('mistral_instruct', None, None)
    """
    lowered = name.lower()
    for part, conv_mode in _BY_NAME:
        version = re.fullmatch(r"v\d", part) is not None
        if part in lowered and (not version or any(one in lowered for one in _FAMILIES)):
            return conv_mode
    return None


def _candidates(
    names: Iterable[str], config: Mapping[str, Any], *, own: bool, converted: bool
) -> Iterator[str]:
    """Yield the templates that something speaks for, the strongest first."""
    if own and converted:
        yield OWN
    yield from (conv_mode for name in names if (conv_mode := by_name(name)))
    language = backbone(config)
    rows = _text_part(config).get("vocab_size")
    if language in _BY_LANGUAGE:
        yield _BY_LANGUAGE[language]
    elif language == "llama" and isinstance(rows, int) and rows >= _LLAMA_3_WORDS:
        yield "llava_llama_3"
    if own:
        yield OWN


def _fitting(tokens: frozenset[str] | None) -> str:
    """Return the templates that a vocabulary has the tokens for, for a message."""
    fits = (
        name for name, one in TEMPLATES.items() if tokens is None or tokens.issuperset(one.needs)
    )
    return ", ".join(sorted(fits))


def _usable(
    conv_mode: str, tokens: frozenset[str] | None, subject: str, rowless: frozenset[str]
) -> str:
    """Return a template's name if the model has what stands in its prompts.

    Raises:
        CheckpointError: it lacks some.
        UsageError: there is no such template.
    """
    needs = () if conv_mode in {OWN, RAW} else template(conv_mode).needs
    lacking = [token for token in needs if tokens is not None and token not in tokens]
    if lacking:
        raise CheckpointError(
            f"the vocabulary lacks {', '.join(lacking)} of the conversation template {conv_mode}",
            subject=subject,
            hint=f"choose the one that the model was trained with; it can be: {_fitting(tokens)}",
        )
    check_rows([token for token in needs if token in rowless], conv_mode, subject)
    return conv_mode
