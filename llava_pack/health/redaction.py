"""Taking out of a text what looks private: secrets, pictures, prompts, names, addresses.

The second line only: no program knows what is private in free text. A support bundle is made of
known fields (`shapes`); this is for logs that a person asked to add, and reads before they leave.

One value is always replaced by the same mark, so that a reader can still follow it through a log.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from llava_pack.serve.access.sessions import SECRET_SHAPES

_NAMED = (
    r"(?i:(?<![A-Za-z0-9])[A-Za-z0-9_-]{0,40}(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|"
    r"(?:access|private|join|engine)[_-]?key|credentials?|session(?:[_-]?id)?|auth|cookie))"
)
"""How names end whose value is a secret."""
_VALUE = r"""(?:"(?P<a>(?:[^"\\]|\\.)*)"|'(?P<b>(?:[^'\\]|\\.)*)'|(?P<c><\w+ \d+>|[^\s,;&"'}]+))"""
_SECRETS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        *SECRET_SHAPES,
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\b(?:hf|ghp|gho|ghu|ghs|ghr|github_pat)_[A-Za-z0-9_]{8,}",
        r"\b(?:sk|rk|pk|glpat)[-_][A-Za-z0-9_-]{16,}",
        r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",
        r"\bxox[a-z]-[A-Za-z0-9-]{8,}",
        r"\beyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]+){1,2}",
        # a password may hold / and @ itself: all up to the last @ of the address
        r"(?<=://)(?:<\w+ \d+>|[^\s\"']{1,300})(?=@)",
        r"(?i:cookie:) ?(?P<a>[^\n]+)",
        r"(?i:\b(?:bearer|basic|digest) )(?P<a><\w+ \d+>|[^\s\"',;]+)",
        rf"{_NAMED}[\"']?\s?[:=]\s?{_VALUE}",
    )
)
_PICTURE = re.compile(r"data:image/[a-z.+-]+;base64,[A-Za-z0-9+/=_-]*|[A-Za-z0-9+/]{300,}={0,2}")
_HOST = re.compile(r'"(?:host|hostname|node|fqdn)"\s*:\s*"(?P<a>(?:[^"\\]|\\.)*)"')
_PROMPT = re.compile(
    r"[\"']?\b(?:prompt|content|question|text|instruction)[\"']?\s?[:=]\s?"
    r"""(?:"(?P<a>(?:[^"\\]|\\.)*)"|'(?P<b>(?:[^'\\]|\\.)*)')"""
)
_MAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", re.ASCII)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b", re.ASCII)
_HOME = re.compile(r"(?<![\w.-])/(?:home|Users|export/home|scratch)/(?P<a>[^/\s\"':,;<]+)")
_PLACE = re.compile(
    r"(?<=://)(?!127\.|localhost\b)(?:<\w+ \d+>@)?(?P<a>[A-Za-z0-9][A-Za-z0-9.-]*)"
    r"|\b(?P<b>[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,8}\."
    r"(?:internal|intra|intranet|local|lan|corp|home|invalid|example|com|net|org|io|de|cn|co))\b"
    r"(?![.(])",
    re.ASCII,
)
_IPV4 = re.compile(r"(?<![\w.=+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w.-])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*(?![\w:])")
_HARDWARE = re.compile(
    r"\b(?:GPU|MIG)-[0-9a-f]{8}-[0-9a-f-]{27}\b|(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])",
    re.IGNORECASE,
)
_KINDS = (
    (_PICTURE, "picture"),
    (_PROMPT, "words"),
    (_HOST, "host"),
    (_HARDWARE, "serial"),
    (_MAIL, "mail"),
    (_IBAN, "account"),
    (_HOME, "user"),
)


class Redactor:
    """Replaces what must not leave, and counts what was replaced.

    Args:
        literals: values known to be private, by the kind that they are shown as; for example the
            machine's own name. Single characters are left alone: they are found everywhere.
    """

    def __init__(self, literals: Mapping[str, Iterable[str]]) -> None:
        self._marks: dict[tuple[str, str], str] = {}
        self._known = {
            value: kind for kind, values in literals.items() for value in values if len(value) > 1
        }
        words = sorted(map(re.escape, self._known), key=len, reverse=True)
        self._literal = re.compile(rf"(?<![\w])(?:{'|'.join(words)})(?![\w])") if words else None
        self.counts: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """Return a text without what must not leave.

        >>> Redactor({"host": ["gpu01"]}).text("gpu01 10.1.2.3 hf_abcdefgh12 127.0.0.1")
        '<host 1> <address 1> <secret 1> 127.0.0.1'
        """
        for pattern in _SECRETS:  # before names: one in a password must not cut it short
            text = pattern.sub(lambda found: self._part("secret", found), text)
        if self._literal is not None:
            text = self._literal.sub(
                lambda found: self._mark(self._known[found[0]], found[0]), text
            )
        for pattern, kind in _KINDS:
            text = pattern.sub(lambda found, kind=kind: self._part(kind, found), text)  # type: ignore[misc]
        text = _IPV6.sub(self._address, text)
        text = _IPV4.sub(self._address, text)
        return _PLACE.sub(lambda found: self._part("host", found), text)

    def _mark(self, kind: str, value: str) -> str:
        if value.startswith("<") and value.endswith(">"):  # a mark already
            return value
        self.counts[kind] += 1
        number = 1 + sum(known == kind for known, _ in self._marks)
        return self._marks.setdefault((kind, value), f"<{kind} {number}>")

    def _part(self, kind: str, found: re.Match[str]) -> str:
        """Return a match with its one named part, or the whole of it, replaced."""
        name = next((one for one, value in found.groupdict().items() if value is not None), None)
        if name is None:
            return self._mark(kind, found[0])
        if not found[name]:
            return found[0]
        start, end = (place - found.start() for place in found.span(name))
        return found[0][:start] + self._mark(kind, found[name]) + found[0][end:]

    def _address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0])
        except ValueError:
            return found[0]
        if address.is_loopback or address.is_unspecified:
            return found[0]
        return self._mark("address", found[0])
