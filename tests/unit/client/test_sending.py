"""What is missing on a server → what travels; and how a stream is held to a rate."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.client.sending.answers import Answers, read_far_side, refusal
from llava_pack.client.sending.cargo import Cargo, CargoFile
from llava_pack.client.sending.plan import (
    BATCH_BYTES,
    SMALL_BYTES,
    FarSide,
    check_space,
    plan_sending,
    there_bytes,
)
from llava_pack.client.sending.send import BackOff, SendRequest, install_command
from llava_pack.client.sending.stream import Throttle
from llava_pack.format.errors import (
    CannotVerifyError,
    PreflightError,
    SpaceError,
    UsageError,
)
from llava_pack.format.progress import Silent

FAR = FarSide(folder="/data/b")


def file(path, size_bytes=1, digest=None):
    return CargoFile(
        path=path, size_bytes=size_bytes, sha256=digest or sha256(path.encode()).hexdigest()
    )


def cargo(root, *files):
    return Cargo(root=root, bundle_id="ab" * 32, recipe="tiny", files=files, absent=frozenset())


_NAMES = st.sampled_from(["model/a", "model/b", "wheels/c", "wheels/d", "lock/e", "install.sh"])
_FILES = st.dictionaries(_NAMES, st.tuples(st.integers(0, 3 * SMALL_BYTES), st.integers(0, 4)))


@given(_FILES, st.sets(_NAMES), st.sets(st.integers(0, 4)), st.integers(0, 4 * SMALL_BYTES))
def test_every_file_is_there_or_travels_or_is_in_the_store(entries, have, stored, part):
    sizes = {}
    files = [
        file(path, sizes.setdefault(digest, size), f"{digest:064}")
        for path, (size, digest) in entries.items()
    ]
    far = FarSide(
        folder="x",
        have=frozenset(have),
        stored=frozenset(f"{one:064}" for one in stored),
        parts={f"{one:064}": part for one in range(5)},
    )
    rounds = 0
    while True:
        plan = plan_sending(files, far)
        for one in plan.shipments:
            assert 0 <= one.offset <= one.file.size_bytes
            assert one.offset in {0, part}
        digests = [one.file.sha256 for one in plan.shipments]
        assert len(digests) == len(set(digests)), "two parts with one name would meet"
        for batch in plan.batches:
            assert sum(one.size_bytes for one in batch) <= BATCH_BYTES
        arrived = {one.path for one in (*plan.files, *plan.copies)}
        assert not arrived & far.have
        if not arrived:
            break
        rounds += 1
        far = FarSide(folder="x", have=far.have | arrived, stored=far.stored)
    assert rounds <= len(files)
    skipped = {one.path for one in plan.skipped}
    assert {one.path for one in files} <= far.have | skipped
    assert all(path.startswith(("model/", "wheels/")) for path in skipped)


def test_a_disk_without_room_is_refused_with_its_numbers():
    plan = plan_sending([file("model/a", 5_000_000_000), file("install.sh")], FAR)
    check_space(plan, FAR)
    with pytest.raises(SpaceError, match=r"needs 5\.0 GB on the server, 1\.0 GB are free"):
        check_space(plan, FarSide(folder="/data/b", free_bytes=1_000_000_000))
    with pytest.raises(SpaceError, match="needs 2 inodes on the server, 1 are free"):
        check_space(plan, FarSide(folder="/data/b", free_inodes=1))


def test_what_is_there_is_read_from_what_the_receiver_prints(tmp_path):
    one, two, three = file("model/a"), file("model/b"), file("model/c", 100)
    lines = [
        "at /data/b",
        "program /opt/llava-pack/bin/llava-pack",
        "free 2",
        "inodes 7",
        "exists model/a",
        "exists model/b",
        f"stored {three.sha256}",
        f"part {two.sha256} 60",
        f"here {one.sha256} model/a",
        f"here {one.sha256} model/b",
        f"store {three.sha256} xx/{three.sha256}",
        "ready",
    ]
    assert read_far_side(iter(lines), cargo(tmp_path, one, two, three), Silent()) == FarSide(
        folder="/data/b",
        program="/opt/llava-pack/bin/llava-pack",
        free_bytes=2048,
        free_inodes=7,
        have=frozenset({"model/a"}),
        stored=frozenset({three.sha256}),
        parts={two.sha256: 60},
    )
    assert read_far_side(iter(lines[:-1]), cargo(tmp_path, one, two, three), Silent()) is None


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("fail 2 /b: holds another bundle, id ab", UsageError),
        ("fail 3 /b: cannot be created or written", PreflightError),
        ("fail 6 no sha256sum on the server: install coreutils or busybox", CannotVerifyError),
        ("fail 7 no space left under /b", SpaceError),
    ],
)
def test_a_refusal_of_the_receiver_is_an_error_of_its_kind(line, kind, tmp_path):
    assert type(refusal(line)) is kind
    assert refusal(line).hint
    with pytest.raises(kind):
        read_far_side(iter([line]), cargo(tmp_path), Silent())
    answers = Answers(iter(["got a", "bad b", line]))
    assert not answers.settled()
    assert (answers.got, answers.bad, type(answers.failure)) == ({"a"}, {"b"}, kind)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_list_that_breaks_off_in_the_middle_keeps_nobody_waiting():
    answers = Answers(iter(["got a", "fail no-code"]))
    assert not answers.settled()
    answers.end()
    assert answers.got == {"a"}


def test_what_counts_as_progress_is_what_the_server_tells():
    one, two = file("model/a", 100), file("model/b", 50)
    far = FarSide(folder="x", have=frozenset({"model/a"}), parts={two.sha256: 7})
    assert there_bytes([one, two], far) == 107
    assert there_bytes([one, two], FAR) == 0


def test_a_rate_holds_on_average_and_is_not_made_up_for():
    now = [100.0]

    def wait(seconds):
        now[0] += seconds

    throttle = Throttle(1000.0, clock=lambda: now[0], wait=wait)
    for _ in range(10):
        throttle.passed(500)
    assert now[0] == pytest.approx(105)
    now[0] += 60
    throttle.passed(500)
    assert now[0] == pytest.approx(165.5)
    assert throttle.piece_bytes() == 1024
    Throttle(None).passed(1 << 40)


def test_the_pause_grows_to_a_minute():
    assert [BackOff().pause_s(n) for n in (1, 2, 3, 6, 7, 50)] == [1, 2, 4, 32, 60, 60]


def test_the_command_for_the_server_has_the_id_and_what_was_chosen(tmp_path):
    request = SendRequest(cargo=cargo(tmp_path), prefix="/data/my llava")
    identity = "ab" * 32
    assert request.folder == f"llava-pack-bundles/tiny-{identity[:12]}"
    assert install_command(request, FAR) == (
        f"sh /data/b/install.sh --bundle /data/b --expect {identity} --prefix '/data/my llava'"
    )
    upgrade = FarSide(folder="/data/b", program="/opt/llava-pack/bin/llava-pack")
    assert install_command(request, upgrade) == (
        f"/opt/llava-pack/bin/llava-pack install /data/b --expect {identity}"
    )
