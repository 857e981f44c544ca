"""The text of the login page: one form, and what happened in English and Chinese.

Its addresses are relative: it works below any path, also one that a proxy takes away unsaid.
"""

import base64
import hashlib
import html

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { display: grid; place-content: center; min-height: 100vh; margin: 0; padding: 1rem; }
form { display: grid; gap: .75rem; width: min(32rem, 90vw); }
input, button { font: inherit; padding: .6rem .8rem; border-radius: .5rem; }
input, button { border: 1px solid #8888; }
button { cursor: pointer; }
#said { min-height: 1.5em; white-space: pre-line; overflow-wrap: anywhere; }
[data-why=wrong_host] :is(label, input, button) { display: none; }
"""
_SCRIPT = r"""
const known = document.body.dataset;
const said = document.getElementById("said");
const field = document.getElementById("token");
const base = new URL(".", location.href);
const WORDS = {
  invalid_api_key: ["This key or token is not valid here.", "密钥或令牌在此无效。"],
  token_of_another_start: [
    "This is not the token of the running server: each start prints another one. " +
    "On the server, llava-pack tunnel prints the present one. " +
    "A key of llava-pack keys add stays valid.",
    "这不是正在运行的服务器的令牌：每次启动都会显示新的令牌。" +
    "请在服务器上运行 llava-pack tunnel 查看；用 llava-pack keys add 创建的密钥一直有效。"],
  expired_api_key: ["This key has expired.", "此密钥已过期。"],
  wrong_scope: ["This key may not open the page: it lacks the scope page.",
    "此密钥无权打开网页：缺少 page 权限。"],
  wrong_origin: [
    "The server does not know the address ORIGIN. Start it with: " +
    "llava-pack serve --public-url BASE",
    "服务器不认识地址 ORIGIN。请这样启动：llava-pack serve --public-url BASE"],
  wrong_host: [
    "The server does not answer to the name HOST. If that name is yours: " +
    "llava-pack serve --allowed-host HOST",
    "服务器不接受名称 HOST。如果这是您的名称：llava-pack serve --allowed-host HOST"],
  cookies: ["The key is right, but your browser did not keep the cookie for ORIGIN. " +
    "Allow cookies there.", "密钥正确，但浏览器没有保存 ORIGIN 的 Cookie。请允许 Cookie。"],
  insecure: ["This page was opened by http, and its login works by https only. Open PUBLIC",
    "此页面通过 http 打开，只能通过 https 登录。请打开 PUBLIC"],
  restarted: ["You were logged in to another start of the server. If it was restarted, " +
    "its printed token is another one now.",
    "您曾登录到服务器的另一次启动。如果服务器已重新启动，令牌也已更换。"],
  ended: ["Your login has ended. Log in again.", "登录已失效，请重新登录。"],
  unreachable: ["The server does not answer. Is the tunnel or the proxy still there?",
    "服务器没有响应。隧道或代理是否仍在运行？"],
  refused: ["The server refuses: STATUS", "服务器拒绝：STATUS"],
};
function say(why, status = "") {
  const values = {
    ORIGIN: location.origin, BASE: base.href.replace(/\/$/, ""), PUBLIC: known.publicUrl,
    HOST: known.host, STATUS: status,
  };
  const fill = (text) => text.replace(/ORIGIN|BASE|PUBLIC|HOST|STATUS/g, (name) => values[name]);
  said.textContent = (WORDS[why] ?? WORDS.refused).map(fill).join("\n");
}
function post(key) {
  const headers = key ? {"Authorization": "Bearer " + key} : {};
  return fetch(location.pathname, {method: "POST", headers, credentials: "same-origin"});
}
async function refusal(answer) {
  const told = await answer.json().then((body) => body.error).catch(() => null);
  say(told?.code, `${answer.status} ${told?.message ?? ""}`);
}
async function enter(key) {
  said.textContent = "…";
  if (!/^[\x21-\x7e]+$/.test(key)) { say("invalid_api_key"); return; }
  try {
    const answer = await post(key);
    if (!answer.ok) { await refusal(answer); return; }
    if ((await post("")).ok) { location.replace(back()); return; }
    const there = `http://${known.publicUrl.split("/")[2]}`;
    const insecure = known.publicUrl.startsWith("https:") &&
      location.protocol === "http:" && new URL(there).hostname === location.hostname;
    say(insecure ? "insecure" : "cookies");
  } catch {
    say("unreachable");
  }
}
function back() {
  let to = base;
  try {
    to = new URL(new URLSearchParams(location.search).get("to") ?? ".", base);
  } catch { /* it is no address: the page itself is opened */ }
  const own = to.origin === base.origin && to.pathname.startsWith(base.pathname);
  const target = own && to.pathname !== location.pathname ? to : base;
  if (!target.hash) { target.hash = given ? "" : location.hash; }
  return target.href;
}
document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(field.value.trim());
});
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  history.replaceState(null, "", location.pathname + location.search);
  enter(given);
} else if (known.why) {
  say(known.why);
}
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
<body data-why="WHY" data-host="HOST" data-public-url="PUBLIC">
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
_BEFORE, _FACTS, _AFTER = (
    part.replace("STYLE", _STYLE).replace("SCRIPT", _SCRIPT)
    for part in _PAGE.partition('data-why="WHY" data-host="HOST" data-public-url="PUBLIC"')
)


def login_form(*, why: str = "", host: str = "", public_url: str = "") -> str:
    """Return the page.

    Args:
        why: what happened, as a name in the script; empty for nothing.
        host: the name that was asked for, where it is not ours.
        public_url: where people are meant to open it; empty where there is no such name.
    """
    values = {"WHY": why, "HOST": host, "PUBLIC": public_url}
    facts = " ".join(
        pair.replace(name, html.escape(value))
        for pair, (name, value) in zip(_FACTS.split(), values.items(), strict=True)
    )
    return f"{_BEFORE}{facts}{_AFTER}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src '{_digest(_SCRIPT)}'",
        f"style-src '{_digest(_STYLE)}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page runs this script, asks its own server, and nothing else."""
