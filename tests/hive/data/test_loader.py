"""Batches: the same whatever the workers, the ranks and the resume; bad samples are left out and named."""

import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hive.config import DataConfig
from hive.data.images import ImageSpec, augment, load
from hive.data.loader import batches, heldout_batches, wrong_images
from hive.data.order import indices, rounds, share
from hive.data.pairs import Pairs
from hive.data.text import Batch, Tokenizer
from tests.support.pairs_on_the_spot import CAPTIONS, encoded, same

DATA = DataConfig(workers=0, augment=True)


def run(
    pairs: Pairs,
    tokenizer: Tokenizer,
    spec: ImageSpec,
    data: DataConfig = DATA,
    *,
    batch_size: int = 8,
    micro_batch_size: int = 2,
    first_step: int = 0,
    steps: int = 5,
    rank: int = 0,
    world: int = 1,
) -> list[list[Batch]]:
    return list(
        batches(
            pairs,
            tokenizer,
            spec,
            data,
            seed=3,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            first_step=first_step,
            steps=steps,
            rank=rank,
            world=world,
        )
    )


def equal(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        same(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


def test_a_sample_is_its_pair(eighteen: Pairs, tokenizer: Tokenizer, spec: ImageSpec) -> None:
    steps = run(eighteen, tokenizer, spec)
    assert [len(step) for step in steps] == [4] * 5
    stream = indices(18, 3, 0, 40)
    for place, (epoch, index) in enumerate(stream):
        batch = steps[place // 8][place % 8 // 2]
        start, end = batch.cu_seqlens[place % 2 : place % 2 + 2].tolist()
        assert tokenizer.backend.decode(batch.targets[start:end].tolist()) == CAPTIONS[index] + "\n"
        assert torch.equal(batch.pixels[place % 2], augment(load(encoded(index), spec, 64), 3, epoch, index))


def test_an_epoch_trains_on_one_of_several_captions(eighteen: Pairs, tokenizer: Tokenizer, spec: ImageSpec) -> None:
    """All of a pair's captions get their turn; held-out losses are of the first one."""
    pairs = dataclasses.replace(eighteen, further={3: ("second", "third"), 5: ("other",)})
    steps = run(pairs, tokenizer, spec, batch_size=2, steps=54)  # six passes
    texts: dict[int, list[str]] = {}
    for (epoch, index), batch, place in zip(
        indices(18, 3, 0, 108), [batch for step in steps for batch in step for _ in range(2)], [0, 1] * 54, strict=True
    ):
        start, end = batch.cu_seqlens[place : place + 2].tolist()
        texts.setdefault(index, []).append(tokenizer.backend.decode(batch.targets[start:end].tolist()).strip())
        assert len(texts[index]) == epoch + 1
    assert sorted(texts[3]) == sorted([CAPTIONS[3], "second", "third"] * 2)
    assert sorted(texts[5]) == sorted([CAPTIONS[5], "other"] * 3)
    assert all(texts[index] == [CAPTIONS[index]] * 6 for index in texts if index not in (3, 5))
    held = zip(*[heldout_batches(each, tokenizer, spec, DATA, 4, 18) for each in (pairs, eighteen)], strict=True)
    assert all(torch.equal(ours.tokens, theirs.tokens) for (ours, _), (theirs, _) in held)


def test_workers_resume_and_ranks_change_nothing(eighteen: Pairs, tokenizer: Tokenizer, spec: ImageSpec) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = run(eighteen, tokenizer, spec)
    two = dataclasses.replace(DATA, workers=2)
    assert equal(run(eighteen, tokenizer, spec, two), whole)
    assert equal(run(eighteen, tokenizer, spec, two, first_step=3, steps=2), whole[3:])
    assert torch.equal(torch.get_rng_state(), before)
    stream = batches(eighteen, tokenizer, spec, two, seed=3, batch_size=8, micro_batch_size=2, first_step=1, steps=900)
    assert equal([next(stream)], whole[1:2])
    stream.close()
    assert multiprocessing.active_children() == []
    ranks = [run(eighteen, tokenizer, spec, rank=rank, world=2) for rank in range(2)]
    assert equal([[step[i // 2] for i in range(4) for step in [ranks[i % 2][s]]] for s in range(5)], whole)


def test_bad_samples_are_left_out_and_named(
    eighteen: Pairs, tokenizer: Tokenizer, spec: ImageSpec, tmp_path: Path
) -> None:
    clean = run(eighteen, tokenizer, spec, steps=9, batch_size=2)  # one pass
    (tmp_path / "images" / "4.png").write_bytes(b"GIF89a")
    (tmp_path / "images" / "5.png").unlink()
    steps = run(eighteen, tokenizer, spec, steps=9, batch_size=2)
    bad = sorted(item for step in steps for batch in step for item in batch.bad)
    assert [(index, name) for index, name, _ in bad] == [(4, "images/4.png"), (5, "images/5.png")]
    assert "GIF" in bad[0][2]
    assert "No such file" in bad[1][2]
    assert sum(batch.samples for step in steps for batch in step) == 16
    assert all(same(x, y) for a, b in zip(steps, clean, strict=True) for x, y in zip(a, b, strict=True) if not x.bad)
    held = list(heldout_batches(eighteen, tokenizer, spec, DATA, 4, 18))
    expected = [couple for couple in wrong_images(eighteen, 18) if not {4, 5} & set(couple)]
    assert sum(right.samples for right, _ in held) == sum(wrong.samples for _, wrong in held) == len(expected)
    assert {index for right, _ in held for index, _, _ in right.bad} == {4, 5}


def test_heldout_has_the_same_texts_with_other_images(eighteen: Pairs, tokenizer: Tokenizer, spec: ImageSpec) -> None:
    held = list(heldout_batches(eighteen, tokenizer, spec, DATA, 4, 10))
    couples = wrong_images(eighteen, 10)
    assert [right.samples for right, _ in held] == [4, 4, 2]
    assert all(right.tokens is wrong.tokens and right.cu_seqlens is wrong.cu_seqlens for right, wrong in held)
    for kind, side in enumerate(("right", "wrong")):
        pixels = torch.cat([pair[kind].pixels for pair in held])
        assert torch.equal(pixels, torch.stack([load(encoded(c[kind]), spec, 64) for c in couples])), side


def test_wrong_images_have_another_caption(eighteen: Pairs) -> None:
    doubled = dataclasses.replace(eighteen, captions=[caption.split()[1] for caption in eighteen.captions])  # 3 colours
    couples = wrong_images(doubled, 18)
    assert len(couples) == 18
    assert all(doubled.captions[a] != doubled.captions[b] for a, b in couples)
    assert wrong_images(dataclasses.replace(eighteen, captions=["same"] * 18), 18) == []


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 9))
def test_every_sample_of_a_step_is_in_one_micro_batch(batch: int, micro: int, world: int) -> None:
    each = rounds(batch, micro, world)
    parts = [share(batch, number, each * world) for number in range(each * world)]
    assert [place for first, size in parts for place in range(first, first + size)] == list(range(batch))
    sizes = [size for _, size in parts]
    assert max(sizes) <= micro
    assert max(sizes) - min(sizes) <= 1
    assert (each - 1) * micro * world < batch, "as few as possible"
    of_ranks = [sum(sizes[rank::world]) for rank in range(world)]
    assert max(of_ranks) - min(of_ranks) <= 1
    if batch % (micro * world) == 0:  # as when batches had to be such multiples
        assert parts == [(number * micro, micro) for number in range(batch // micro)]


def test_a_batch_that_does_not_divide(eighteen: Pairs, tokenizer: Tokenizer, spec: ImageSpec) -> None:
    """The stream of pairs is the same, whatever the micro-batches; so is each rank's number of them."""
    whole = torch.cat([step[0].pixels for step in run(eighteen, tokenizer, spec, batch_size=7, micro_batch_size=7)])
    for micro, world, sizes in ((2, 1, [2, 2, 2, 1]), (4, 1, [4, 3]), (2, 3, [2, 1, 1, 1, 1, 1]), (9, 2, [4, 3])):
        ranks = [
            run(eighteen, tokenizer, spec, batch_size=7, micro_batch_size=micro, rank=rank, world=world)
            for rank in range(world)
        ]
        steps = [[batch for row in zip(*(rank[s] for rank in ranks), strict=True) for batch in row] for s in range(5)]
        assert [[batch.samples for batch in step] for step in steps] == [sizes] * 5
        assert torch.equal(torch.cat([batch.pixels for step in steps for batch in step]), whole)


SCRIPT = """
import pathlib, pickle, sys, time
from hive.config import DataConfig
from hive.data.loader import batches
if __name__ == "__main__":
    pairs, tokenizer, spec = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
    stream = batches(pairs, tokenizer, spec, DataConfig(workers=2), seed=0, batch_size=2, micro_batch_size=2,
                     first_step=0, steps=10**6)
    next(stream)
    import multiprocessing, signal
    caught = []
    signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    while not caught:
        time.sleep(0.01)
    for _ in range(20):  # the workers outlive the signal
        next(stream)
    print("alive", flush=True)
    time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_outlive_sigterm_and_end_with_the_main_process(
    eighteen: Pairs, tokenizer: Tokenizer, spec: ImageSpec, tmp_path: Path
) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    (tmp_path / "state").write_bytes(pickle.dumps((eighteen, tokenizer, spec)))
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "state")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        os.killpg(process.pid, signal.SIGTERM)  # as a batch scheduler does: to all of them
        assert process.stdout.readline() == "alive\n"
        process.kill()
        deadline = time.monotonic() + 10
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(is_running, workers))
    finally:
        process.kill()
        process.wait()
