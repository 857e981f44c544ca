"""What people and models write, made harmless for a page that draws Markdown.

An answer may hold what a picture told the model to write: a picture from elsewhere, which the page
would load without a click, a link, a tag, a diagram that loads pictures. Each of them needs two
characters side by side; an invisible joiner between the two keeps them text, in code as well as
outside of it, so that nothing depends on where the page's own parser sees code. Bold, lists, tables
and code stay what they are.

Source: CommonMark 0.31, 4.6, 4.7, 6.3 to 6.6; GFM 6.9 (extended autolinks); Unicode, U+2060.
"""

import re

JOINER = "\u2060"
_SEAMS = re.compile(
    r"""
      (?<=<)(?=[A-Za-z/!?])     # a tag, a comment, an autolink in angle brackets
    | (?<=\])(?=[(:])           # a link or a picture; the definition that a reference needs
    | (?<=:)(?=//)              # an address that is a link by itself
    | (?<=www)(?=\.)            # another one
    | (?<=@)(?=\S)              # an e-mail address
    | (?<=m)(?=ermaid)          # a diagram, whose nodes may be pictures and links
    """,
    re.VERBOSE | re.IGNORECASE,
)


def disarmed(text: str) -> str:
    r"""Return a text in which nothing is a link, a picture, a tag or a diagram; twice is once.

    >>> disarmed("**see** ![x](http://a.example)")
    '**see** ![x]\u2060(http:\u2060//a.example)'
    """
    return _SEAMS.sub(JOINER, plain(text))


def plain(text: str) -> str:
    r"""Return a text as it was written.

    >>> plain(disarmed("<b> a@b.example"))
    '<b> a@b.example'
    """
    return text.replace(JOINER, "")
