"""What fits one GPU, and what fits several: every one needs its own share."""

import pytest

from llava_pack.checkpoint.footprint import count_parameters, footprint
from llava_pack.format.target import Gpu
from llava_pack.lock.fit import Wish, choose_fit, gpu_fits, sharing_gpus
from llava_pack.lock.profile import TargetProfile
from tests.unit.checkpoint.test_footprint import CLIP_L, VICUNA_7B, VICUNA_13B

GIB = 1 << 30
WISH = Wish(context_tokens=4096, slots=8)
SLICED = Gpu(
    name="A100",
    compute_capability="8.0",
    memory_bytes=80 * GIB,
    mig=True,
    mig_slices=("1g.10gb",) * 2,
)


def gpu(gib, capability="8.6"):
    return Gpu(name=f"{gib} GiB", compute_capability=capability, memory_bytes=gib * GIB)


def chosen(config, *gpus, wish=WISH):
    parameters = count_parameters(config, CLIP_L)
    found = gpu_fits(parameters, config, wish, TargetProfile(gpus=gpus), "7.0")
    return choose_fit(found, wish)


@pytest.mark.parametrize(
    ("config", "gpus", "precision", "count"),
    [
        (VICUNA_13B, (gpu(12), gpu(12)), "int8", 2),
        (VICUNA_13B, (gpu(24),), "int8", 1),
        (VICUNA_13B, (gpu(24), gpu(24)), "int8", 1),
        (VICUNA_13B, (gpu(6), gpu(12), gpu(8)), "int8", 3),
        (VICUNA_13B, (gpu(12), gpu(8)), "nf4", 2),
        (VICUNA_13B, (gpu(12), SLICED), "nf4", 1),
        (VICUNA_13B, (gpu(12), SLICED, gpu(12)), "int8", 2),
        (VICUNA_13B, (gpu(12), gpu(12, "6.1")), "nf4", 1),
        (VICUNA_13B, (gpu(16, "7.0"), gpu(16, "7.0")), "nf4", 1),
        (VICUNA_7B, (gpu(24), gpu(12)), "fp16", 1),
        (VICUNA_7B, (gpu(12), gpu(8)), "int8", 2),
    ],
)
def test_as_few_gpus_as_serve_two_requests_in_8_bits_or_more(config, gpus, precision, count):
    fit = chosen(config, *gpus)
    assert (fit.precision, fit.gpus) == (precision, count)
    assert fit.needs_bytes <= fit.has_bytes


def test_weights_quantized_ahead_stay_on_one_gpu_that_holds_them():
    wish = Wish(context_tokens=4096, slots=2, precisions=("nf4",))
    assert chosen(VICUNA_7B, gpu(12), gpu(12), wish=wish).gpus == 1


def test_the_largest_share_and_a_slice_is_alone():
    small, large = gpu(8), gpu(12)
    profile = TargetProfile(gpus=(small, SLICED, large))
    assert sharing_gpus(profile, 2, "int8") == (large, small)
    assert sharing_gpus(profile, 1, "nf4") == (large,)
    assert sharing_gpus(profile, 3, "int8") == (large, small)


@pytest.mark.parametrize("sizes", [(12, 12), (12, 8), (8, 8, 8), (24, 12)])
def test_every_gpu_holds_its_layers_a_context_and_working_memory(sizes):
    has = [size * GIB for size in sizes]
    predicted = footprint(
        count_parameters(VICUNA_13B, CLIP_L), VICUNA_13B, precision="int8", device="cuda",
        context_tokens=2048, slots=1, gpus=len(has),
    )  # fmt: skip
    shares, places = predicted.shares(has), predicted.places(has)
    assert len(places) == 40
    assert list(places) == sorted(places)
    alone = footprint(
        count_parameters(VICUNA_13B, CLIP_L), VICUNA_13B, precision="int8", device="cuda",
        context_tokens=2048, slots=1,
    )  # fmt: skip
    assert min(shares) > 512 << 20, "a context on every one"
    assert sum(shares) == pytest.approx(predicted.total_bytes, rel=1e-6)
    assert predicted.total_bytes > alone.total_bytes
    if len(set(places)) > 1:
        assert max(shares) < alone.total_bytes


def test_what_the_first_gpu_must_hold_does_not_fit_because_the_sum_would():
    """Embeddings, head, projector and tower are on the first, whatever the others have."""
    small = Gpu(name="small", compute_capability="8.6", memory_bytes=1700 << 20)
    wish = Wish(context_tokens=1024, slots=1, precisions=("nf4",))
    profile = TargetProfile(gpus=(small,) * 8)
    found = gpu_fits(count_parameters(VICUNA_7B, CLIP_L), VICUNA_7B, wish, profile)
    assert any(fit.needs_bytes <= fit.has_bytes for fit in found)
    assert not any(fit.fits for fit in found)


CUT = Wish(context_tokens=4096, slots=2, precisions=("fp16",), spread="tensor")


@pytest.mark.parametrize(
    ("gpus", "count"),
    [
        ((gpu(40),), 1),
        ((gpu(40), gpu(40)), 1),
        ((gpu(24), gpu(24)), 2),
        ((gpu(16),) * 3, None),  # 40 heads are not cut into three
        ((gpu(16),) * 4, 4),
        ((gpu(24), gpu(10)), None),  # the smaller one would hold half
    ],
)
def test_layers_that_are_cut_need_as_much_of_each_gpu(gpus, count):
    fit = chosen(VICUNA_13B, *gpus, wish=CUT)
    assert (fit.gpus if fit and fit.slots >= CUT.slots else None) == count


def test_layers_in_a_row_take_what_each_gpu_has():
    row = Wish(context_tokens=4096, slots=2, precisions=("fp16",))
    fit = chosen(VICUNA_13B, gpu(24), gpu(14), wish=row)
    assert (fit.gpus, fit.slots) == (2, 2)
