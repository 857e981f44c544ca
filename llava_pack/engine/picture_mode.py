"""The two ways to make RGB of a picture that is something else: as it is seen, or as LLaVA does."""

from typing import Literal, get_args

PictureMode = Literal["viewer", "llava"]
"""How pictures become RGB:

viewer: as picture viewers show them. 16-bit grey is scaled, what is transparent lies on white.
llava: as LLaVA's own code makes them. 16-bit grey above 255 is white, and what is transparent has
    whatever colour its file happens to name there, mostly black.

Source: haotian-liu/LLaVA llava/eval/run_llava.py and serve/cli.py, `convert("RGB")`.
"""
PICTURE_MODES: tuple[PictureMode, ...] = get_args(PictureMode)
DEFAULT_PICTURE_MODE: PictureMode = "viewer"
