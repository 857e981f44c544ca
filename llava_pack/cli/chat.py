"""`llava-pack chat`: ask a model about pictures in the terminal."""

import sys
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_pack.cli import console
from llava_pack.cli.serve import quantized_by
from llava_pack.cli.speakers import LocalSpeaker, ServedSpeaker, Speaker
from llava_pack.client.turns import Attachment, ChatAnswer, Turn
from llava_pack.format.errors import PackError, ServeError, UsageError

_HELP = "/image FILE adds a picture, /reset forgets everything, /exit (or Ctrl-D) ends."
_Text = str | None


def chat(
    model_path: Annotated[
        Path | None,
        typer.Option("--model-path", help="A checkpoint's folder; without it, a running server."),
    ] = None,
    vision_tower: Annotated[
        Path | None,
        typer.Option(help="The vision tower's folder, where the checkpoint does not say it."),
    ] = None,
    model_base: Annotated[
        Path | None,
        typer.Option("--model-base", help="What an adapter or a projector was trained on."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "--image-file", help="A picture's file; may be given again."),
    ] = None,
    prompt: Annotated[_Text, typer.Option(help="One question; answer it and exit.")] = None,
    model: Annotated[
        _Text, typer.Option(help="Which of the running server's models to ask.")
    ] = None,
    conv_mode: Annotated[
        _Text, typer.Option(help="Conversation template, in place of the checkpoint's own.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is always the likeliest word.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Part of the likely words to draw from.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Draws the same words again.")] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "--max-new-tokens", help="Longest answer.")
    ] = 512,
    precision: Annotated[
        _Text,
        typer.Option(help="fp32, fp16, bf16, int8 or nf4. Default: as it was quantized, or nf4."),
    ] = None,
    load_4bit: Annotated[bool, typer.Option("--load-4bit", help="Same as nf4.")] = False,
    load_8bit: Annotated[bool, typer.Option("--load-8bit", help="Same as int8.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line for each answer.")
    ] = False,
) -> None:
    """Ask a model about pictures: one question with --prompt, or a conversation.

    Without --model-path it asks the server that `llava-pack serve` started on this machine.
    A question may also come through a pipe. In a conversation, /image FILE adds a picture,
    /reset forgets everything, and /exit ends.

    \b
    Examples:
      llava-pack chat --image photo.jpg
      llava-pack chat --image photo.jpg --prompt "What is unusual here?"
      llava-pack chat --model-path models/llava-v1.5-7b --image photo.jpg --load-4bit
      cat question.txt | llava-pack chat --image photo.jpg --json
    """
    from llava_pack.engine.port import Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
    options = {
        "vision_tower": vision_tower,
        "model_base": model_base,
        "precision": _precision(precision, load_4bit=load_4bit, load_8bit=load_8bit),
        "device": device,
        "conv_mode": conv_mode,
    }
    question = _question(prompt)
    pictures = tuple(_attachment(path) for path in image or ())
    speaker = _speaker(model_path, model, options)
    talk = Conversation(speaker, sampling, pictures, as_json=as_json)
    if question is not None:
        talk.ask(question)
    else:
        _converse(talk)


def _need(*modules: str) -> None:
    """Say what is missing where only the laptop's half is installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ServeError(
            f"this installation has no {', '.join(missing)}, which this question takes",
            hint="pip install '.[serve]' in a clone of llava-pack, or use the llava-pack that "
            "install.sh installed",
        )


class Conversation:
    """Turns so far, the pictures of the next one, and how answers are shown."""

    def __init__(
        self,
        speaker: Speaker,
        sampling: Any,
        pictures: tuple[Attachment, ...] = (),
        *,
        as_json: bool = False,
    ) -> None:
        self._speaker = speaker
        self._sampling = sampling
        self._as_json = as_json
        self._turns: list[Turn] = []
        self._pictures = pictures

    @property
    def name(self) -> str:
        """Return what answers, for people."""
        return self._speaker.name

    def add(self, picture: Attachment) -> None:
        """Add a picture to the next question."""
        self._pictures = (*self._pictures, picture)

    def reset(self) -> None:
        """Forget everything that was said and shown."""
        self._turns, self._pictures = [], ()

    def ask(self, question: str) -> None:
        """Show the answer to a question; a question that fails is not remembered.

        Raises:
            PackError: it cannot be answered.
        """
        asked = [*self._turns, Turn("user", question, self._pictures)]
        answer = ChatAnswer()
        pieces = self._speaker.answer(asked, self._sampling, answer)
        self._show(pieces, answer)
        self._turns = [*asked, Turn("assistant", answer.text)]
        self._pictures = ()

    def _show(self, pieces: Generator[str, None, None], answer: ChatAnswer) -> None:
        with closing(pieces):
            try:
                for piece in pieces:
                    if not self._as_json:
                        console.stream(piece)
            finally:
                if answer.text and not self._as_json:
                    console.data("")
        if self._as_json:
            console.document("answer", asdict(answer))


def _converse(talk: Conversation) -> None:
    """Read questions from the terminal until the end."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and editing
    console.say(f"{talk.name}. {_HELP}")
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.say()
            return
        if line == "/exit":
            return
        try:
            _obey(talk, line)
        except PackError as error:
            console.failure(error)
        except KeyboardInterrupt:
            console.say()
            console.say("stopped; Ctrl-D ends")


def _obey(talk: Conversation, line: str) -> None:
    command, _, rest = line.partition(" ")
    if command == "/image":
        talk.add(_attachment(rest.strip()))
        console.say("the picture goes with your next question")
    elif command == "/reset":
        talk.reset()
        console.say("everything is forgotten")
    elif command in {"/help", "/?"}:
        console.say(_HELP)
    elif line:
        talk.ask(line)


def _question(prompt: str | None) -> str | None:
    """Return the one question, None where a person sits at the terminal."""
    if prompt is None and sys.stdin.isatty():
        return None
    question = (sys.stdin.read() if prompt is None else prompt).strip()
    if not question:
        raise UsageError("there is no question", hint='add --prompt "What is in the picture?"')
    return question


def _attachment(path: str) -> Attachment:
    _need("PIL")
    from llava_pack.engine.pictures import decode_picture, read_picture_bytes

    data = read_picture_bytes(path)
    try:
        return Attachment(data, decode_picture(data))
    except UsageError as error:
        raise UsageError(error.message, subject=path, hint=error.hint) from error


def _speaker(model_path: Path | None, model: str | None, options: dict[str, Any]) -> Speaker:
    if model_path is not None:
        _need("PIL", "torch", "transformers")
        given = {**options, "precision": options["precision"] or "auto"}
        return LocalSpeaker(model_path, given, console.progress())
    local = [name for name, value in options.items() if value not in {None, "auto"}]
    if local:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in local)
        raise UsageError(
            f"{flags} concern loading a model, but no --model-path is given",
            hint="add --model-path DIR, or leave them out to ask the running server",
        )
    return ServedSpeaker(model)


def _precision(given: str | None, *, load_4bit: bool, load_8bit: bool) -> str | None:
    asked = quantized_by(load_4bit=load_4bit, load_8bit=load_8bit)
    asked |= {given} if given else set()
    if len(asked) > 1:
        names = ", ".join(sorted(asked))
        raise UsageError(f"--precision, --load-4bit and --load-8bit ask for {names}: choose one")
    return asked.pop() if asked else None
