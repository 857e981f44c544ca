"""Health under full load: false alarms, time and memory of the quick check, time of the deep test.

    python benchmarks/health.py --minutes 10 [--installed demo-run/server/bin/llava-pack]

Serves the demo model in nf4, or what a program's own installation serves, on a free port of
loopback, keeps every slot and the queue busy, and runs `llava-pack health --json` again and again.
An alarm of a layer that looks at the server (engine, page, api, silence), or at what is installed,
is a false one. What the machine lacks is counted apart.
"""

import argparse
import base64
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "bundles" / "demo-model"
PICTURE = ROOT / "bundles" / "known-answers" / "red-circle.png"
OURS = {"integrity", "environment", "engine", "page", "api", "answers", "silence"}


def main() -> None:
    """Run and print."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--minutes", type=float, default=10.0)
    given.add_argument("--clients", type=int, default=12)
    given.add_argument("--installed", type=Path, help="the program of an installation")
    options = given.parse_args()
    program = [sys.executable, "-m", "llava_pack"]
    if options.installed:
        program = [str(options.installed.absolute())]
    with tempfile.TemporaryDirectory() as state:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": state}
        command = [*program, "serve", "--json", "--port", "0", "--no-web"]
        if not options.installed:
            command += ["--model-path", str(DEMO / "llava-v1-demo"), "--load-4bit"]
            command += ["--vision-tower", str(DEMO / "clip-demo")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as server:
            try:
                said = json.loads((server.stdout or sys.stdin).readline())
                _measure(said, [*program, "health", "--json"], environ, options)
            finally:
                server.terminate()


def _measure(
    said: dict[str, str], check: list[str], environ: dict[str, str], options: argparse.Namespace
) -> None:
    stop = threading.Event()
    answered = [0] * options.clients
    clients = [
        threading.Thread(target=_ask, args=(said, stop, answered, number), daemon=True)
        for number in range(options.clients)
    ]
    for client in clients:
        client.start()
    until = time.monotonic() + options.minutes * 60
    took, peaks, false, other = [], [], 0, 0
    while time.monotonic() < until:
        report, took_s, peak_bytes = _health(check, environ)
        took.append(took_s)
        peaks.append(peak_bytes)
        wrong = [one for one in report["findings"] if one["level"] != "ok"]
        if not options.installed:
            wrong = [one for one in wrong if one["layer"] != "integrity"]
        false += any(one["layer"] in OURS for one in wrong)
        other += any(one["layer"] not in OURS for one in wrong)
        for one in wrong:
            print(one["layer"], one["text"])
        time.sleep(2)
    stop.set()
    for client in clients:
        client.join(timeout=60)
    took.sort()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print(f"{options.clients} clients, {sum(answered)} answers in {options.minutes:g} min")
    print(f"{len(took)} checks, {false} false alarms, {other} about the machine itself")
    print(f"quick check: median {took[len(took) // 2]:.2f} s, slowest {took[-1]:.2f} s under load")
    print(f"peak memory of a check: {max(peaks) / 1e6:.0f} MB")


def _ask(said: dict[str, str], stop: threading.Event, answered: list[int], number: int) -> None:
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": f"What is in the picture? ({number})"},
    ]
    body = {"model": "llava-v1-demo", "messages": [{"role": "user", "content": content}]}
    headers = {"Authorization": f"Bearer {said['token']}"}
    with httpx.Client(base_url=said["url"], headers=headers, trust_env=False, timeout=120) as http:
        while not stop.is_set():
            answered[number] += http.post("/v1/chat/completions", json=body).status_code == 200


def _health(
    command: list[str], environ: dict[str, str]
) -> tuple[dict[str, list[dict[str, str]]], float, int]:
    """Return the report, the seconds and the peak resident bytes of one check."""
    began_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as check:
        text = (check.stdout or sys.stdin).read()
        _, _, usage = os.wait4(check.pid, 0)
        check.returncode = 0
    return json.loads(text), time.monotonic() - began_s, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
