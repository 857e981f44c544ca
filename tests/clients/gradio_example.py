"""docs/examples/gradio_chat.py in front of a real gateway, as a person starts it: text and a picture."""

import os
import subprocess
from pathlib import Path

from PIL import Image

from tests.clients.conftest import client
from tests.support.gateway import ROOT, TOKEN, gateway
from tests.support.ports import quiet_ports

_ASK = """
import sys
from gradio_client import Client, handle_file

asking = Client(sys.argv[1], verbose=False)
files = [handle_file(sys.argv[2])]
print(asking.predict({"text": "what is it?", "files": files}, api_name="/answer"))
print(asking.predict({"text": "and now?", "files": []}, api_name="/answer"))
"""


def test_the_example_asks_the_server_as_any_client_does(tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    port = str(quiet_ports(1)[0])
    with gateway(tmp_path / "run") as served:
        environ = {
            **os.environ,
            "OPENAI_BASE_URL": f"{served.url}/v1",
            "OPENAI_API_KEY": TOKEN,
            "GRADIO_SERVER_PORT": port,
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        python = str(client("gradio") / "python")
        example = [python, "-u", str(ROOT / "docs" / "examples" / "gradio_chat.py")]
        with subprocess.Popen(example, env=environ, stdout=subprocess.PIPE, text=True) as running:
            try:
                assert running.stdout is not None
                assert any("Running on local URL" in line for line in running.stdout)
                ask = [python, "-c", _ASK, f"http://127.0.0.1:{port}", str(picture)]
                said = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
            finally:
                running.terminate()
    assert "You said: what is it? Picture 40x30 of 255,0,0." in said
    assert "You said: and now?" in said
