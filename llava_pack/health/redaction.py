"""Taking out of a text what must not leave a machine: secrets, pictures, prompts, names, addresses.

One value is always replaced by the same mark, so that a reader can still follow it through a log.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping

_SECRETS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\bhf_[A-Za-z0-9]{8,}",
        r"\bsk-[A-Za-z0-9_-]{16,}",
        r"(?<=bearer )[^\s\"',;]+",
        r"(?<=basic )[A-Za-z0-9+/=]{8,}",
        r"(?<=://)[^/\s@\"']+(?=@)",
        r"(?<=token=)[^\s&\"'#]+",
        r"(?<=\"token\": \")[^\"]+",
        r"(?<=\"token\":\")[^\"]+",
        r"(?:(?<=password=)|(?<=passwd=)|(?<=api_key=)|(?<=api-key=)|(?<=apikey=)|(?<=secret=))[^\s&\"']+",
        r"(?:(?<=password: )|(?<=api_key: )|(?<=api-key: )|(?<=secret: ))\S+",
    )
)
_PICTURE = re.compile(r"data:image/[a-z.+-]+;base64,[A-Za-z0-9+/=_-]*|[A-Za-z0-9+/]{300,}={0,2}")
_HOST = re.compile(r'("(?:host|hostname|node|fqdn)"\s*:\s*)"((?:[^"\\]|\\.)*)"')
_PROMPT = re.compile(r'("(?:prompt|content|question)"\s*:\s*)"((?:[^"\\]|\\.)*)"')
_IPV4 = re.compile(r"(?<![\w.=+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w.-])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*(?![\w:])")
_HARDWARE = re.compile(
    r"\b(?:GPU|MIG)-[0-9a-f]{8}-[0-9a-f-]{27}\b|(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])",
    re.IGNORECASE,
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
        for pattern in _SECRETS:
            text = pattern.sub(lambda found: self._mark("secret", found[0]), text)
        text = _PICTURE.sub(lambda found: self._mark("picture", found[0]), text)
        text = _PROMPT.sub(lambda found: self._field("words", found), text)
        text = _HOST.sub(lambda found: self._field("host", found), text)
        text = _HARDWARE.sub(lambda found: self._mark("serial", found[0].lower()), text)
        if self._literal is not None:
            text = self._literal.sub(
                lambda found: self._mark(self._known[found[0]], found[0]), text
            )
        text = _IPV6.sub(self._address, text)
        return _IPV4.sub(self._address, text)

    def _mark(self, kind: str, value: str) -> str:
        if value.startswith("<") and value.endswith(">"):  # a mark already
            return value
        self.counts[kind] += 1
        number = 1 + sum(known == kind for known, _ in self._marks)
        return self._marks.setdefault((kind, value), f"<{kind} {number}>")

    def _private(self, found: re.Match[str]) -> str:
        return self._mark(self._known[found[0]], found[0])

    def _field(self, kind: str, found: re.Match[str]) -> str:
        return f'{found[1]}"{self._mark(kind, found[2])}"' if found[2] else found[0]

    def _address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0])
        except ValueError:
            return found[0]
        if address.is_loopback or address.is_unspecified:
            return found[0]
        return self._mark("address", found[0])
