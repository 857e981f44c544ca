"""The login page: takes the token out of the URL's fragment and swaps it for a cookie.

A fragment never travels to a server or into its logs. The page sends it once as a header and
gets a cookie that scripts cannot read and that no other site's requests carry.
"""

import base64
import hashlib
import time

from starlette.responses import HTMLResponse, JSONResponse, Response

from llava_pack.serve.access.policy import AccessPolicy, Ruling
from llava_pack.serve.access.scopes import LOGIN_PATH
from llava_pack.serve.access.sessions import Session

PAGE_PATHS = frozenset({"", "/"})
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { display: grid; place-content: center; min-height: 100vh; margin: 0; padding: 1rem; }
form { display: grid; gap: .75rem; width: min(28rem, 90vw); }
input, button { font: inherit; padding: .6rem .8rem; border-radius: .5rem; }
input, button { border: 1px solid #8888; }
button { cursor: pointer; }
#said { min-height: 1.5em; }
"""
_SCRIPT = """
const said = document.getElementById("said");
const field = document.getElementById("token");
async function enter(token) {
  said.textContent = "…";
  const answer = await fetch("PATH", {
    method: "POST", headers: {"Authorization": "Bearer " + token}, credentials: "same-origin",
  });
  if (answer.ok) { location.replace("/"); return; }
  said.textContent = "This key or token is not valid here. / 密钥或令牌无效或没有权限。";
}
document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(field.value.trim());
});
const given = new URLSearchParams(location.hash.slice(1)).get("token");
history.replaceState(null, "", "PATH");
if (given) { enter(given); }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>llava-pack</title>
<style>STYLE</style>
</head>
<body>
<form>
<h1>llava-pack</h1>
<label for="token">Your key, or the token printed by the server / 您的密钥或服务器显示的令牌</label>
<input id="token" type="password" autocomplete="off" autofocus required>
<button>Open / 打开</button>
<div id="said" role="status"></div>
</form>
<script>SCRIPT</script>
</body>
</html>
"""


class LoginPage:
    """Serves the form, and the cookie to whom the guard let through."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._policy = policy
        script = _SCRIPT.replace("PATH", LOGIN_PATH)
        self._page = _PAGE.replace("STYLE", _STYLE).replace("SCRIPT", script)
        self._headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": _content_policy(script, _STYLE),
        }

    def answer(self, method: str, ruling: Ruling) -> Response:
        """Return the form for GET, the cookie for POST: of the key that was shown, and its own."""
        if method in {"GET", "HEAD"}:
            return HTMLResponse(self._page, headers=self._headers)
        if method != "POST":
            return Response(status_code=405, headers={"Allow": "GET, POST"})
        response = Response(status_code=204, headers={"Cache-Control": "no-store"})
        if ruling.key is not None:
            now_s = int(time.time())
            session = ruling.session or Session(ruling.key.id, began=now_s, seen=now_s)
            derived = self._policy.derived
            _set_cookie(response, derived.cookie_name, derived.cookie(session))
        return response


def _content_policy(script: str, style: str) -> str:
    """Return a policy by which a page runs this script, asks its own server, and nothing else."""
    allowed = [
        "default-src 'none'",
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join(allowed)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def cookie_header(name: str, value: str) -> tuple[bytes, bytes]:
    """Return the header that sets a session's cookie."""
    response = Response()
    _set_cookie(response, name, value)
    return next(pair for pair in response.raw_headers if pair[0] == b"set-cookie")


def _set_cookie(response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, httponly=True, samesite="strict", path="/")


def controller_answer(policy: AccessPolicy, ruling: Ruling, host: bytes) -> Response:
    """Return where LLaVA's own clients find their routes with the key that asks."""
    path = policy.llava_path_of(ruling.key) if ruling.key else ""
    address = f"http://{host.decode('latin-1')}{path}"
    return JSONResponse({"controller": address}, headers={"Cache-Control": "no-store"})
