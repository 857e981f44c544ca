"""Whose an upload, a session and an event is, and how much of it is remembered."""

from llava_pack.serve.page import owners as page_owners
from llava_pack.serve.page.owners import Owner, Owners

_ANN = Owner(caller="ann", browser="1")
_ANN_ELSEWHERE = Owner(caller="ann", browser="2")
_BOB = Owner(caller="bob", browser="1")


def test_an_upload_is_its_browsers_under_its_key() -> None:
    owners = Owners()
    owners.brought(_ANN, {"/a.png": 1})
    assert [owners.may_use(owner, "/a.png") for owner in (_ANN, _ANN_ELSEWHERE, _BOB)] == [
        True, False, False,
    ]  # fmt: skip
    owners.brought(_BOB, {"/a.png": 1})
    assert owners.may_use(_ANN, "/a.png")
    assert owners.may_use(_BOB, "/a.png")


def test_a_session_belongs_to_the_first_who_claims_it() -> None:
    owners = Owners()
    assert not owners.holds(_ANN, "s")
    assert owners.claim(_ANN, "s")
    assert owners.claim(_ANN, "s")
    assert not owners.claim(_BOB, "s")
    assert not owners.claim(_ANN_ELSEWHERE, "s")
    assert [owners.holds(owner, "s") for owner in (_ANN, _ANN_ELSEWHERE, _BOB)] == [
        True, False, False,
    ]  # fmt: skip


def test_an_event_belongs_to_its_session() -> None:
    owners = Owners()
    owners.began("nobodys", "e")
    owners.claim(_ANN, "s")
    owners.claim(_BOB, "t")
    owners.began("s", "e")
    assert owners.runs(_ANN, "s", "e")
    assert not owners.runs(_ANN, "s", "f")
    assert not owners.runs(_BOB, "s", "e")
    assert not owners.runs(_BOB, "t", "e")


def test_a_flood_under_one_key_forgets_only_what_is_that_keys() -> None:
    owners = Owners()
    owners.brought(_BOB, {"/b.png": 1})
    owners.claim(_BOB, "b")
    many = {f"/{number}.png": 1 for number in range(page_owners._UPLOADS + 1)}
    assert owners.brought(_ANN, many) == ["/0.png"]
    for number in range(page_owners._SESSIONS + 1):
        owners.claim(_ANN, f"s{number}")
    assert not owners.may_use(_ANN, "/0.png")
    assert owners.may_use(_ANN, "/1.png")
    assert not owners.holds(_ANN, "s0")
    assert owners.may_use(_BOB, "/b.png")
    assert owners.holds(_BOB, "b")


def test_a_key_has_so_much_of_the_disk_and_its_oldest_make_room() -> None:
    owners, half = Owners(), page_owners._UPLOAD_BYTES // 2
    assert owners.brought(_BOB, {"/both.png": half, "/bobs.png": half}) == []
    assert owners.brought(_ANN, {"/both.png": half}) == []
    assert owners.brought(_ANN, {"/a.png": half}) == []
    assert owners.brought(_ANN_ELSEWHERE, {"/b.png": 1}) == [], "bob's as well"
    assert not owners.may_use(_ANN, "/both.png")
    assert owners.may_use(_BOB, "/both.png")
    assert owners.brought(_ANN, {"/b.png": half}) == ["/a.png"]
    assert owners.may_use(_ANN_ELSEWHERE, "/b.png")
    assert not owners.may_use(_ANN, "/a.png")
