"""The fence of a process that decodes pictures: the smallest that there is."""

import os

from llava_pack.engine.fence.place import this_place
from llava_pack.engine.fence.plan import decoder_fence
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import Standing


def enter_decoder_fence() -> Standing:
    """Raise the fence around this process, which decodes pictures, and return which one stands.

    It keeps what is open, reads its Python, and can make, reach and start nothing. Behind a
    gateway's fence it is one more; call it before there is a second thread.
    """
    return raise_fence(decoder_fence(this_place(os.environ)))
