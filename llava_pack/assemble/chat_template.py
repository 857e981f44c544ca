"""A conversation template as Jinja: the prompt that llava-pack's own engine writes.

The pictures of a turn come first, each on a line of its own, then its texts; those that stand in a
text stay there. A system message that is the first one takes the place of the template's own.

Source: transformers "Chat templating" (what the template is given, trimmed blocks);
llava_pack.checkpoint.templates and message_body (what it shall give).
"""

import json
from collections.abc import Collection

from llava_pack.checkpoint.templates import Template, template

_BODY = """{%- macro body(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- set seen = namespace(pictures=0, text=false, behind=false) -%}
{%- for part in content -%}
{%- if part['type'] == 'text' -%}{%- set seen.text = true -%}
{%- elif part['type'] == 'image' -%}
{%- set seen.pictures = seen.pictures + 1 -%}
{%- if seen.text -%}{%- set seen.behind = true -%}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if seen.behind and (seen.pictures > 1 or content[-1]['type'] == 'text') -%}
{{ in_place(content) }}
{%- else -%}
{%- for part in content if part['type'] == 'image' -%}{{ 'PICTURE\\n' }}{%- endfor -%}
{%- set texts = namespace(first=true) -%}
{%- for part in content if part['type'] == 'text' -%}
{{ ('' if texts.first else '\\n') + part['text'] }}{%- set texts.first = false -%}
{%- endfor -%}
{%- endif -%}
{%- endif -%}
{%- endmacro -%}
{%- macro in_place(content) -%}
{%- set last = namespace(text='', picture=false, begun=false) -%}
{%- for part in content -%}
{%- if part['type'] == 'image' and not last.begun -%}{{ 'PICTURE\\n' }}
{%- elif part['type'] == 'image' -%}
{{ ('\\n' if last.text[-1:].isalnum() else '') + 'PICTURE' }}
{%- set last.text = '' -%}{%- set last.picture = true -%}
{%- elif part['type'] == 'text' -%}
{%- set lettered = last.picture and part['text'][:1].isalnum() -%}
{{ ('\\n' if lettered or (last.text and part['text']) else '') + part['text'] }}
{%- set last.text = part['text'] -%}{%- set last.picture = false -%}
{%- set last.begun = true -%}
{%- endif -%}
{%- endfor -%}
{%- endmacro -%}
{%- macro plain(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}{{ ('' if loop.first else '\\n') + part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set turns = messages -%}
{%- set system = SYSTEM -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set system = plain(messages[0]['content']) -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
"""
_DIALOGUE = """{{ system + SEP }}
{%- for turn in turns -%}
{%- if turn['role'] == 'user' -%}{{ USER + ': ' + body(turn['content']) + SEP }}
{%- else -%}{{ ASSISTANT + ': ' + body(turn['content']) + SEP2 }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ASSISTANT + ':' }}{%- endif -%}
"""
_TURNS = """{%- if system and HEAD -%}{{ 'LEAD' + HEAD + system + SEP }}{%- endif -%}
{%- for turn in turns -%}
{%- if turn['role'] == 'user' -%}
{{ USER + (system + '\\n\\n' if loop.first and system and not HEAD else '') }}
{{- body(turn['content']) + SEP }}
{%- else -%}{{ ASSISTANT + body(turn['content']) + SEP2 }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ASSISTANT }}{%- endif -%}
"""
_LLAMA_2 = """{%- for turn in turns -%}
{%- if turn['role'] == 'user' -%}
{{ ('' if loop.first else SEP) + '[INST] ' }}
{%- if loop.first and system -%}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{%- endif -%}
{{ body(turn['content']) + ' [/INST]' }}
{%- else -%}{{ ' ' + body(turn['content']) + ' ' + SEP2 }}
{%- endif -%}
{%- endfor -%}
"""
_PLAIN = """{{ system }}
{%- for turn in turns -%}
{{ body(turn['content']) + (SEP if turn['role'] == 'user' else SEP2) }}
{%- endfor -%}
"""
_OPENING = "<|im_start|>"
_STYLES = {
    "single": _DIALOGUE,
    "two": _DIALOGUE,
    "turns": _TURNS,
    "llama_2": _LLAMA_2,
    "plain": _PLAIN,
}


def chat_template(
    conv_mode: str, *, legacy: bool, picture_ends: bool = False, named: Collection[str] = ()
) -> str:
    """Return the Jinja template of a conversation mode.

    Args:
        conv_mode: a name that the engine knows.
        legacy: the tokenizer puts a space behind every special token by itself; where it does not,
            the template writes the one behind `<image>`.
        picture_ends: the model was trained with a picture between `<im_start>` and `<im_end>`.
        named: special tokens that have a part of their own, as `bos_token`; before another one
            that begins the prompt, a tokenizer that is not legacy keeps a space.

    Raises:
        UsageError: there is no such mode.
    """
    picture = "<image>" if legacy else "<image> "
    return jinja(
        template(conv_mode),
        picture=f"<im_start>{picture}<im_end>" if picture_ends else picture,
        lead="" if legacy or _OPENING in named else " ",
    )


def jinja(chosen: Template, *, picture: str, lead: str = "") -> str:
    """Return a conversation template in Jinja.

    Args:
        chosen: the template.
        picture: what stands for one.
        lead: what the prompt begins with.
    """
    body = _BODY.replace("PICTURE", picture)
    style = _STYLES[chosen.style].replace("LEAD", lead)
    return body.replace("SYSTEM", _quoted(chosen.system)) + _filled(style, chosen)


def _filled(style: str, chosen: Template) -> str:
    words = {
        "HEAD": chosen.head,
        "SEP2": chosen.sep2,
        "SEP": chosen.sep,
        "USER": chosen.user,
        "ASSISTANT": chosen.assistant,
    }
    for name, text in words.items():
        style = style.replace(name, _quoted(text))
    return style


def _quoted(text: str) -> str:
    """Return a text as a Jinja string."""
    return json.dumps(text, ensure_ascii=False)
