"""Features are kept up to a number of bytes, and counted."""

from llava_pack.engine.inputs.feature_cache import FeatureCache


def test_the_oldest_go_first():
    cache: FeatureCache[memoryview] = FeatureCache(10)
    for name in "abc":
        cache.put((name,), memoryview(bytes(4)))
    assert cache.get(("a",)) is None
    assert cache.get(("b",)) is not None
    cache.put(("d",), memoryview(bytes(4)))  # c was asked for less recently than b
    assert [cache.get((name,)) is not None for name in "bcd"] == [True, False, True]
    assert (cache.size_bytes, cache.queries, cache.hits) == (8, 5, 3)


def test_what_is_larger_than_everything_is_not_kept():
    cache: FeatureCache[memoryview] = FeatureCache(3)
    cache.put(("a",), memoryview(bytes(4)))
    assert (cache.size_bytes, cache.get(("a",))) == (0, None)


def test_the_same_key_is_kept_once():
    cache: FeatureCache[memoryview] = FeatureCache(10)
    for _ in range(3):
        cache.put(("a",), memoryview(bytes(4)))
    assert cache.size_bytes == 4
