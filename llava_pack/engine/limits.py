"""How large what is asked may be: one set of limits for the engine and for every door to it."""

from dataclasses import dataclass

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TOP_LOGPROBS = 20
MAX_STOP_IDS = 64
MAX_BIASES = 1024
MAX_BIAS = 100.0
"""Of one token's logit; more than this is the same as always, or never."""
MAX_PENALTY = 2.0
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.1, 10.0
MAX_GRAMMAR_CHARS = 65_536
MAX_SALT_CHARS = 256
MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 100.0
SHRUNK_SIDE = 4096
"""Pixels along the longer side of a picture that was too large: more than any model looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a picture may be, and those of one request together: the same at every door.

    Attributes:
        size_bytes: of the file: a photograph of 50 megapixels, or a page that was scanned.
        pixels: of one picture. Cameras of 50 megapixels (8160x6144) and A4 at 600 dpi are within.
        side_pixels: of its longer side: a padded picture costs the engine the square of it.
        scans: of a progressive JPEG. Encoders make about ten; every one goes over all pixels.
        count: of pictures in a request.
        total_pixels: of all pictures of a request together: 306 MB once decoded.
        decode_s: how long one may take to decode; 51 megapixels take one to six seconds.
    """

    size_bytes: int = 40_000_000
    pixels: int = 51_000_000
    side_pixels: int = 10_000
    scans: int = 100
    count: int = 16
    total_pixels: int = 102_000_000
    decode_s: float = 15.0
