"""Probes of LLaVA's own `llava.serve`: its ports, its page, and known answers by its protocol."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from llava_pack.checkpoint.template_choice import by_name
from llava_pack.engine.fence.value import Standing
from llava_pack.engine.known.questions import MAX_TOKENS
from llava_pack.format.errors import ServeError
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.format.manifest import Manifest
from llava_pack.health.facts import AnswerFacts, FenceFacts, ModelFacts, PageFacts, ServerFacts
from llava_pack.health.known_answers import grade
from llava_pack.llava_serve.client import UpstreamClient
from llava_pack.llava_serve.files import model_files
from llava_pack.llava_serve.processes import UpstreamProcesses, free_ports
from llava_pack.llava_serve.programs import Ports, chosen_device, programs
from llava_pack.serve.run_state import RunState
from llava_pack.serve.supervision.plans import LoadOptions, installed_plan

_PROGRAMS = "llava.serve.controller, llava.serve.model_worker, llava.serve.gradio_web_server"
_TOKEN = "smoke-test"  # noqa: S105 - guards nothing but the few seconds of a smoke test


class UpstreamProbe:
    """Asks one running server of `llava.serve`.

    Args:
        controller: URL of its controller.
        page: URL of its page.
        token: of its start.
        pid: the process that supervises it.
        models: names that it is to serve.
        fences: which fence stands around each program, as it told.
    """

    def __init__(
        self,
        controller: str,
        page: str,
        *,
        token: str,
        pid: int,
        models: tuple[str, ...],
        fences: Mapping[str, Any],
    ) -> None:
        self._client = UpstreamClient(controller, token)
        self._page, self._pid, self._models = page, pid, models
        self._fences = fences

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def facts(self) -> ServerFacts:
        """Return what the controller says: a model is ready while its worker answers."""
        try:
            listed = self._client.models()
        except ServeError as error:
            return ServerFacts(url=self._page, pid=self._pid, error=error.message)
        return ServerFacts(
            url=self._page,
            pid=self._pid,
            live=True,
            ready=set(self._models) <= set(listed),
            has_page=True,
            programs=_fences(self._fences),
            models={name: _phase(ready=name in listed) for name in self._models},
        )

    def page(self) -> PageFacts:
        """Return what the page answers to a person who has logged in."""
        try:
            status, is_page = self._client.page(self._page)
        except ServeError as error:
            return PageFacts(status=0, is_page=False, error=error.message)
        return PageFacts(status=status, is_page=is_page)

    def answer(self, model: str, known: KnownAnswer, device: str | None = None) -> AnswerFacts:
        """Return how a model answers a known question through the controller.

        The template is the one that LLaVA's page chooses: by the model's name.
        """
        began_s = time.monotonic()
        first_s = began_s
        pieces: list[str] = []
        try:
            for piece in self._client.stream(
                model,
                known.prompt,
                known.picture_png,
                by_name(model) or "llava_v1",
                tokens=MAX_TOKENS,
            ):
                if piece and not pieces:
                    first_s = time.monotonic()
                pieces += [piece] if piece else []
        except ServeError as error:
            return AnswerFacts(model=model, grade=grade(known, ""), error=error.message)
        return AnswerFacts(
            model=model,
            grade=grade(known, "".join(pieces)),
            device=device,
            ttft_s=first_s - began_s,
        )


def probe(state: RunState) -> UpstreamProbe:
    """Return what asks a run."""
    return UpstreamProbe(
        state.controller,
        state.url,
        token=state.token,
        pid=state.pid,
        models=state.models,
        fences=state.fences,
    )


def smoke(manifest: Manifest, model_dir: Path, precision: str, device: str) -> dict[str, Any]:
    """Start the three programs, ask the known questions, look at the page, and end them.

    Raises:
        ServeError: one of the programs ended; with its last words.
        UsageError: LLaVA's loader cannot load it so.
    """
    began_s = time.monotonic()
    options = LoadOptions(precision=precision, device=device, slots=1)
    plan = installed_plan(
        manifest,
        options,
        model_dir=model_dir.absolute(),
        vision_tower=None,
        python=Path(sys.executable),
    )
    files = model_files(plan.model_dir)
    ports = free_ports(0)
    with tempfile.TemporaryDirectory(prefix="llava-pack-smoke-") as folder:
        home = Path(folder)
        three = programs(plan, ports, files=files, token=_TOKEN, environment=os.environ, home=home)
        _compile(plan.python, home, three[0].environment)
        running = UpstreamProcesses(three, ports, plan.name, token=_TOKEN)
        up_s, answers, page = asyncio.run(_asked(running, plan.name, ports, manifest))
    return {
        "ok": all(answer["ok"] for answer in answers) and page.is_page,
        "precision": precision,
        "device": chosen_device(device),
        "load_s": round(up_s - began_s, 3),
        "answers": answers,
        "page": {"status": page.status, "ok": page.is_page, "error": page.error},
    }


async def _asked(
    running: UpstreamProcesses, model: str, ports: Ports, manifest: Manifest
) -> tuple[float, list[dict[str, Any]], PageFacts]:
    """Start the programs, ask them, and return when they were up and what they answered."""

    def ask() -> tuple[list[dict[str, Any]], PageFacts]:
        urls = ports.url("controller"), ports.url("page")
        with UpstreamProbe(
            *urls, token=_TOKEN, pid=os.getpid(), models=(model,), fences={}
        ) as asking:
            known_answers = manifest.known_answers
            answers = [_told(known, asking.answer(model, known)) for known in known_answers]
            return answers, asking.page()

    async with running:
        await running.start()
        up_s = time.monotonic()
        return up_s, *await asyncio.to_thread(ask)


def _compile(python: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Have Python keep what it compiles of LLaVA's programs: behind a fence nothing is kept.

    What is wrong with them is told when they are started.
    """
    subprocess.run(
        [python, "-I", "-c", f"import {_PROGRAMS}"],
        env=dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def _fences(told: Mapping[str, Any]) -> dict[str, FenceFacts]:
    """Return what the run state tells of fences, as far as it can be read."""
    stand = {name: Standing.from_wire(fields) for name, fields in told.items()}
    return {name: FenceFacts(said=str(one), whole=one.whole) for name, one in stand.items() if one}


def _told(known: KnownAnswer, facts: AnswerFacts) -> dict[str, Any]:
    return {
        "name": known.name,
        "ok": facts.grade.ok and not facts.error,
        "text": facts.grade.text,
        "missing": list(facts.grade.missing),
        "ttft_s": round(facts.ttft_s, 4),
        "error": facts.error,
    }


def _phase(*, ready: bool) -> ModelFacts:
    return ModelFacts(
        phase="ready" if ready else "starting",
        detail="" if ready else "its worker does not respond",
        device="LLaVA's own worker",
        running=0,
        waiting=0,
        stalled_s=0.0,
    )
