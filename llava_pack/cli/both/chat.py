"""`llava-pack chat`: ask a model about pictures in the terminal."""

import re
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import KeepEnv
from llava_pack.cli.both.remote import RemoteOptions, ways_of
from llava_pack.cli.both.sampling import QuestionOptions
from llava_pack.cli.loading import ModelOptions, tell_left_out
from llava_pack.cli.parameters import Ways, expanded
from llava_pack.client.chat_backends import LocalSpeaker, ServedSpeaker, Speaker
from llava_pack.client.dropped_paths import dropped_files, path_of, paths_in
from llava_pack.client.libraries import need_libraries
from llava_pack.client.turns import Attachment, ChatAnswer, Turn, placed
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.format.errors import PackError, UsageError

_HELP = (
    "/image FILE adds a picture (or drop it here), /clear starts over, /help shows this, "
    "/quit (or Ctrl-D) quits."
)
_QUIT = frozenset({"/exit", "/quit", "/bye", "/q", "exit", "quit"})
_CLEAR = frozenset({"/clear", "/reset", "/new"})
_ASK_HELP = frozenset({"/help", "/?", "help", "?"})
_COMMAND = re.compile(r"/[A-Za-z?]+", re.ASCII)
WAYS: Ways = ways_of("image", "prompt", "keep_env", "as_json")


@partial(expanded, ways=WAYS)
def chat(
    ctx: typer.Context,  # noqa: ARG001 - `expanded` looks at it
    *,
    remote: RemoteOptions,
    options: ModelOptions,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "--image-file", help="A picture file; may be repeated."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Ask one question and exit.")] = None,
    question: QuestionOptions,
    keep_env: KeepEnv = None,  # noqa: ARG001 - bin/llava-pack has looked at it
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line for each answer.")
    ] = False,
) -> None:
    """Ask a model about pictures: one question or a conversation.

    With --prompt, it asks one question and exits. The pictures come before the question, or each
    where the question has <image>. Without --model-path, it uses the server that
    `llava-pack serve` started on this machine. On the laptop, --via uses the server there through
    ssh, and --url the one at an address; pictures are read here, and need no library. The question
    may also be piped in. In a conversation, /image FILE adds a picture, /clear starts over, /help
    lists these commands, and /quit quits. A path may be quoted, escaped, a file:// URL, or dropped
    with the mouse.

    \b
    Examples:
      llava-pack chat --image photo.jpg
      llava-pack chat --image photo.jpg --prompt "What is unusual here?"
      llava-pack chat --via ada@gpu01 -p 30022 --image photo.jpg
      llava-pack chat --url https://llava.corp --key-file key --prompt "Hello"
      llava-pack chat --model-path models/llava-v1.5-7b --image photo.jpg --load-4bit
      cat question.txt | llava-pack chat --image photo.jpg --json
    """
    folder, sampling = options.need_folder(), question.sampling
    if folder is not None or remote.url:
        tell_left_out()
    text = _question(prompt)
    pictures = PictureFiles(
        options.mode_of_pictures, shrink=question.shrink, decode=not remote.elsewhere
    )
    first = tuple(pictures.read(path_of(path)) for path in image or ())
    if text is not None:
        placed(text, first)  # before a model is loaded for nothing
    with _speaker(folder, remote, question.model, options) as speaker:
        talk = Conversation(speaker, sampling, first, as_json=as_json)
        if text is not None:
            talk.ask(text)
        else:
            _converse(talk, pictures)


class PictureFiles:
    """Reads the pictures of a conversation from their files.

    Args:
        mode: how they become RGB.
        shrink: whether those over the limits are scaled down.
        decode: whether they are decoded here, and so refused before they are sent.
    """

    def __init__(
        self,
        mode: PictureMode = DEFAULT_PICTURE_MODE,
        *,
        shrink: bool = False,
        decode: bool = True,
    ) -> None:
        self._mode: PictureMode = mode
        self._shrink = shrink
        self._decode = decode

    def read(self, path: str) -> Attachment:
        """Return the picture in a file.

        Raises:
            UsageError: it is none, or over the limits.
            ServeError: there is no Pillow.
        """
        from llava_pack.engine.inputs.picture_files import read_picture_bytes, read_picture_to_send

        if not (self._decode or self._shrink):
            return Attachment(read_picture_to_send(path))
        need_libraries("chatting" if self._decode else "--shrink", "PIL")
        from llava_pack.client.shrinking import read_shrunk
        from llava_pack.engine.inputs.picture_decoder import decode_picture

        data = read_shrunk(path, self._mode) if self._shrink else read_picture_bytes(path)
        if not self._decode:
            return Attachment(data)
        try:
            return Attachment(data, decode_picture(data, mode=self._mode))
        except UsageError as error:
            raise UsageError(error.message, subject=path, hint=error.hint) from error


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
                    console.verbatim("")
        for text in answer.warnings:
            console.warning(text)
        if self._as_json:
            console.document("answer", asdict(answer))


def _converse(talk: Conversation, pictures: PictureFiles) -> None:
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
        if line.lower() in _QUIT:
            return
        try:
            _obey(talk, line, pictures)
        except PackError as error:
            console.failure(error)
        except KeyboardInterrupt:
            console.say()
            console.say("stopped; Ctrl-D quits")


def _obey(talk: Conversation, line: str, pictures: PictureFiles) -> None:
    """Do what a line asks for; what is no command and no picture is a question."""
    command, _, rest = line.partition(" ")
    command = command.lower()
    if command in _CLEAR and not rest:
        talk.reset()
        console.say("the conversation was reset")
    elif line.lower() in _ASK_HELP:
        console.say(_HELP)
    elif command == "/image":
        _add(talk, paths_in(rest), pictures)
    elif files := dropped_files(line):
        _add(talk, files, pictures)
    elif _COMMAND.fullmatch(command):
        known = command in _CLEAR | _ASK_HELP | _QUIT
        text = f"{command} takes nothing after it" if known else f"there is no command {command}"
        raise UsageError(text, hint=_HELP)
    elif line:
        talk.ask(line)


def _add(talk: Conversation, paths: list[str], pictures: PictureFiles) -> None:
    """Add pictures to the next question: all of them, or none.

    Raises:
        UsageError: there is none, or one cannot be read.
    """
    if not paths:
        raise UsageError("there is no file", hint="type /image and a path, or drop a picture here")
    for attachment in [pictures.read(path) for path in paths]:
        talk.add(attachment)
    goes = "the picture goes" if len(paths) == 1 else f"{len(paths)} pictures go"
    console.say(f"{goes} with your next question")


def _question(prompt: str | None) -> str | None:
    """Return the one question, None where a person sits at the terminal."""
    if prompt is None and sys.stdin.isatty():
        return None
    question = (sys.stdin.read() if prompt is None else prompt).strip()
    if not question:
        raise UsageError("there is no question", hint='add --prompt "What is in the picture?"')
    return question


@contextmanager
def _speaker(
    folder: Path | None, remote: RemoteOptions, model: str | None, options: ModelOptions
) -> Iterator[Speaker]:
    """Have who answers during the block."""
    if folder is None:
        with remote.server(model) as server:
            yield ServedSpeaker(server)
        return
    need_libraries("chatting", "PIL", "torch", "transformers")
    yield LocalSpeaker(folder, options.load.given, console.progress())
