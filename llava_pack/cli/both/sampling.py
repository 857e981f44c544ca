"""The options of a question, as `chat` and `ask` both take them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llava_pack.engine.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """Which model answers, how tokens are chosen, and what becomes of large pictures."""

    model: Annotated[
        str | None, typer.Option(help="Which of the running server's models to use.")
    ] = None
    temperature: Annotated[
        float, typer.Option(help="0 is greedy: always the most likely token.")
    ] = 0.0
    top_p: Annotated[float, typer.Option(help="Probability mass of the tokens to sample from.")] = (
        1.0
    )
    seed: Annotated[
        int | None, typer.Option(help="Random seed; the same seed samples the same tokens.")
    ] = None
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "--max-new-tokens", help="Longest answer, in tokens.")
    ] = 512
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Scale pictures down that are over the limits.")
    ] = False

    @property
    def sampling(self) -> "Sampling":
        """Return how tokens are drawn.

        Raises:
            UsageError: a number is out of range.
        """
        from llava_pack.engine.sampling import Sampling

        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_tokens,
        )
