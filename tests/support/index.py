"""A package index on loopback: wheels from folders, as installers ask for them.

Source: PEP 503 (HTML), PEP 691 (JSON), PEP 658/714 (metadata beside a wheel).
"""

import base64
import hashlib
import html
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from tests.support.loopback import Answer, Asked, Loopback

_JSON = "application/vnd.pypi.simple.v1+json"


class LoopbackIndex(Loopback):
    """Serve every wheel and .tar.gz under `folders`; `simple_url` is what an installer is given.

    Args:
        folders: of wheels and sources.
        host: an address of this machine.
        port: 0 for a free one.
        tls: a PEM file with a certificate and its key, to answer over https.
        login: `USER:PASSWORD`, without which it answers 401.
        below: the path of the index.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Path | None = None,
        login: str | None = None,
        below: str = "/simple",
    ) -> None:
        super().__init__(host=host, port=port, tls=tls)
        self._below = below.strip("/")
        files = [
            file
            for folder in folders
            for pattern in ("*.whl", "*.tar.gz")
            for file in sorted(folder.glob(pattern))
        ]
        self._wheels = {file.name: file for file in files}
        self._login = None if login is None else base64.b64encode(login.encode()).decode()
        self._digests: dict[str, str] = {}

    @property
    def simple_url(self) -> str:
        """The index URL."""
        return f"{self.url}/{self._below}/"

    def respond(self, asked: Asked) -> Answer:
        if self._login is not None and asked.headers.get("authorization") != f"Basic {self._login}":
            return Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="index"'})
        path = asked.path.strip("/")
        if path == self._below or path.startswith(f"{self._below}/"):
            project = path.removeprefix(self._below).strip("/")
            return self._simple(project, as_json=_JSON in asked.headers.get("accept", ""))
        if path.startswith("files/"):
            return self._file(path.removeprefix("files/"))
        return Answer(status=404, body=b"no such page\n")

    def _file(self, name: str) -> Answer:
        wheel = self._wheels.get(name.removesuffix(".metadata"))
        if wheel is None:
            return Answer(status=404, body=b"no such file\n")
        if name.endswith(".metadata"):
            return Answer(body=_metadata(wheel), headers={"Content-Type": "text/plain"})
        etag = f'"{self._digest(wheel)[:32]}"'
        return Answer(body=wheel, headers={"ETag": etag}, ranged=True)

    def _simple(self, project: str, *, as_json: bool) -> Answer:
        if not project:
            return _projects({_project(name) for name in self._wheels}, as_json=as_json)
        found = [wheel for name, wheel in self._wheels.items() if _project(name) == project]
        if not found:
            return Answer(status=404, body=b"no such project\n")
        return self._json(project, found) if as_json else self._html(found)

    def _json(self, project: str, wheels: Sequence[Path]) -> Answer:
        files = [
            {
                "filename": wheel.name,
                "url": f"{self.url}/files/{quote(wheel.name)}",
                "hashes": {"sha256": self._digest(wheel)},
                "size": wheel.stat().st_size,
                "core-metadata": wheel.suffix == ".whl",
            }
            for wheel in wheels
        ]
        page = {"meta": {"api-version": "1.1"}, "name": project, "files": files}
        return Answer(body=json.dumps(page).encode(), headers={"Content-Type": _JSON})

    def _html(self, wheels: Sequence[Path]) -> Answer:
        links = [
            f'<a href="/files/{quote(file.name)}#sha256={self._digest(file)}"{_beside(file)}>'
            f"{html.escape(file.name)}</a>"
            for file in wheels
        ]
        return _page(links)

    def _digest(self, wheel: Path) -> str:
        if wheel.name not in self._digests:
            with wheel.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            self._digests[wheel.name] = digest.hexdigest()
        return self._digests[wheel.name]


def _beside(file: Path) -> str:
    return ' data-core-metadata="true"' if file.suffix == ".whl" else ""


def _projects(names: set[str], *, as_json: bool) -> Answer:
    if as_json:
        page = {"meta": {"api-version": "1.1"}, "projects": [{"name": n} for n in sorted(names)]}
        return Answer(body=json.dumps(page).encode(), headers={"Content-Type": _JSON})
    return _page([f'<a href="/simple/{name}/">{name}</a>' for name in sorted(names)])


def _page(links: Sequence[str]) -> Answer:
    body = "<!DOCTYPE html><html><body>\n" + "<br>\n".join(links) + "\n</body></html>\n"
    return Answer(body=body.encode(), headers={"Content-Type": "text/html; charset=utf-8"})


def _project(wheel_name: str) -> str:
    """Return the normalised project name. Source: PEP 503, 625."""
    name = wheel_name.removesuffix(".tar.gz")
    name = name.rpartition("-")[0] if name != wheel_name else name.partition("-")[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return archive.read(name)
