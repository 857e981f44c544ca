"""How large what is asked may be: one set of limits for the engine and for every door to it."""

from dataclasses import dataclass

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TOP_LOGPROBS = 20
MAX_SALT_CHARS = 256
MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a picture may be, and those of one request together: the same at every door.

    Attributes:
        size_bytes: of the file.
        pixels: of one picture.
        side_pixels: of its longer side, for pictures are padded to a square: 300 MB at most.
        ratio: of its sides. A tower that does not pad scales the short side to its own 336 pixels:
            1:100 becomes 11 megapixels by that, and 1:10,000 would be 1,100 and 3.4 GB.
        scans: of a progressive JPEG. Encoders make about ten; every one goes over all pixels.
        count: of pictures in a request.
        total_pixels: of all pictures of a request together: 300 MB once decoded.
        decode_s: how long one may take to decode; 25 megapixels take a second.
    """

    size_bytes: int = 20_000_000
    pixels: int = 25_000_000
    side_pixels: int = 10_000
    ratio: int = 100
    scans: int = 100
    count: int = 16
    total_pixels: int = 100_000_000
    decode_s: float = 10.0
