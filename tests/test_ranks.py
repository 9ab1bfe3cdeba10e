"""Several processes that train together find what one finds, and learn of each other's failures.

Two real processes, started by msrun, run tests/ranks_job.py once; what they only agree on is tested
with threads, which exchange their messages in memory.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranks_job as job
from synthetic_corpus import make_corpus, tiny
from test_planner import Listed, entries, speech_model

from common.data.splits import convert_split
from common.model.checkpoint import load
from common.text.tokenizer import CharacterTokenizer
from common.training.distributed import ProcessGroup, RemoteRankError
from common.training.epoch_plan import EpochPlan
from common.training.trainer import _same_everywhere
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE

TESTS = Path(__file__).resolve().parent


class Threads(ProcessGroup):
    """A rank that is a thread."""

    def __init__(self, rank: int, barrier: threading.Barrier, rows: list):
        super().__init__()
        self.rank, self.count, self.barrier, self.rows = rank, len(rows), barrier, rows

    def _all_bytes(self, row: np.ndarray) -> np.ndarray:
        self.rows[self.rank] = row.copy()
        self.barrier.wait(20)
        found = np.stack(self.rows)  # of one length, or else two ranks are at different places
        self.barrier.wait(20)
        return found


def on_threads(count: int, call: Callable[[ProcessGroup], Any]) -> list:
    """What `call` returns, or raises, on each of several ranks."""
    barrier, rows, found = threading.Barrier(count), [None] * count, [None] * count

    def work(rank: int) -> None:
        try:
            found[rank] = call(Threads(rank, barrier, rows))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_numbers_and_texts_arrive_as_they_were():
    numbers = [[0.1, -1e300, 2.0**53 - 1], [np.inf, 5e-324, 7.0], [np.nan, 0.0, -0.0]]
    said = ["", "großes Ä", "x" * 2000]

    def call(ranks: ProcessGroup):
        mine = numbers[ranks.rank]
        return (
            ranks.all_gather(*mine),
            ranks.all_reduce_sum(1, ranks.rank),
            ranks.all_gather_text(said[ranks.rank]),
        )

    for agreed, sums, texts in on_threads(3, call):
        assert agreed[:, :3].tobytes() == np.array(numbers).tobytes()
        assert sums == [3, 3] and texts == ["", "großes Ä", "x" * 1000]
    asked = on_threads(3, lambda ranks: [ranks.any_rank(ranks.rank == r) for r in (0, 2, 5)])
    assert asked == [[True, True, False]] * 3
    assert on_threads(3, lambda ranks: ranks.local_world_size()) == [3, 3, 3]


def test_one_rank_agrees_with_itself():
    alone = ProcessGroup()
    assert alone.all_gather(1.5, 2)[0, :2].tolist() == [1.5, 2]
    assert (
        alone.all_reduce_sum(3, 4) == [3, 4]
        and alone.all_gather_text("a") == ["a"]
        and alone.local_world_size() == 1
    )
    assert [alone.any_rank(asked) for asked in (True, False)] == [True, False]


@pytest.mark.parametrize("failing", [(2,), (0,), (0, 1)])
@pytest.mark.parametrize("wanted", ["agree", "texts"])
def test_a_failure_is_known_to_all_who_leave_together(failing, wanted):
    left = []

    def call(ranks: ProcessGroup):
        with ranks.failure_propagation():
            try:
                for number in range(5):
                    if number == 3 and ranks.rank in failing:
                        raise UserError(f"shard {ranks.rank} is damaged")
                    ranks.all_gather_text("a") if wanted == "texts" else ranks.all_gather(number)
            finally:
                if ranks.rank == 0:  # writes its checkpoint
                    threading.Event().wait(0.2)
                    left.append("saved")
        return None

    def noted(ranks: ProcessGroup):
        try:
            return call(ranks)
        finally:
            left.append(ranks.rank)

    found = on_threads(3, noted)
    whose = "; ".join(f"rank {rank} ended: shard {rank} is damaged" for rank in failing)
    for rank, error in enumerate(found):
        if rank in failing:
            assert type(error) is UserError and str(error) == f"shard {rank} is damaged"
        else:
            assert isinstance(error, RemoteRankError) and str(error) == whose
    assert left[0] == "saved" and sorted(left[1:]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("configuration", {"TrainingConfig.eval_every": 3}),
        ("training data", {"identity": {"digest": "b"}}),
        ("validation data", {"validation": {"digest": "b"}}),
        ("vocabulary", {"labels": ("B",)}),
        ("weights to start from", {"weights": np.ones(3)}),
    ],
)
def test_hosts_with_other_files_are_refused(what, change, monkeypatch):
    monkeypatch.setattr("common.training.trainer.configs.leaves", lambda config: config)
    of_a_host = {"DataConfig.workers"}
    monkeypatch.setattr("common.training.trainer.configs.host_keys", lambda config: of_a_host)

    def call(ranks: ProcessGroup):
        own = {"identity": {"digest": "a"}, "labels": ("A",), "weights": np.zeros(3)}
        own |= {"validation": {"digest": "a"}, "TrainingConfig.eval_every": 2}
        own |= change if ranks.rank == 2 else {}
        config = {key: own[key] for key in own if key.startswith("TrainingConfig")}
        config["DataConfig.workers"] = ranks.rank  # each host's own affair
        parameter = SimpleNamespace(asnumpy=lambda: own["weights"])
        made = SimpleNamespace(
            config=config,
            tokenizer=CharacterTokenizer((*own["labels"], "_")),
            network=SimpleNamespace(get_parameters=lambda: [parameter]),
        )
        _same_everywhere(ranks, made, own["identity"], own["validation"])

    for error in on_threads(4, call):
        assert f"rank 2, and in all 1 of 4 ranks, have another {what}" in str(error)
    change.clear()
    assert on_threads(4, call) == [None] * 4


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize(("ranks", "size"), [(1, 4), (2, 8), (3, 1), (4, 16), (8, 4)])
def test_every_utterance_once_an_epoch_and_as_many_steps_on_every_rank(ranks, size, static, copies):
    for count in (1, 7, 64, 101):
        source = Listed(entries(count, copies))
        spoken = [entry.copy_of or entry.id for entry in source.entries]
        made = speech_model(static, batch_size=size)
        made.config.TrainingConfig.accumulation_step = 2
        planners = [EpochPlan(made, source, rank, ranks) for rank in range(ranks)]
        for epoch in (0, 1, 5):
            plans = [planner.plan(epoch) for planner in planners]
            assert {len(plan) for plan in plans} == {len(planners[0])}
            valid = [[batch.indices[: batch.valid] for batch in plan] for plan in plans]
            counted = [spoken[i] for plan in valid for rows in plan for i in rows]
            assert sorted(counted) == sorted(set(spoken))
            for first in range(0, len(planners[0]), 2):
                counting = sum(len(rows) for plan in valid for rows in plan[first : first + 2])
                assert {p.counting(epoch, first, 2) for p in planners} == {counting}
                assert counting > 0


@pytest.mark.parametrize("epoch", [0, 1, 4])
def test_two_ranks_have_the_steps_of_one_with_batches_of_twice_the_size(epoch):
    source = Listed(entries(61))
    one = EpochPlan(speech_model(batch_size=16), source)
    two = [EpochPlan(speech_model(batch_size=8), source, rank, 2) for rank in range(2)]
    assert len(one) == len(two[0])
    for whole, *halves in zip(
        one.plan(epoch), *(planner.plan(epoch) for planner in two), strict=True
    ):
        parts = [index for half in halves for index in half.indices[: half.valid]]
        assert sorted(parts) == sorted(whole.indices)


# ---- two processes


@pytest.fixture(scope="module")
def together(cpu, tmp_path_factory) -> Path:
    """The folder in which two processes have done their job, and one of them then failed."""
    folder = tmp_path_factory.mktemp("ranks")
    corpus = make_corpus(folder / "corpus")
    for split in ("train", "val"):
        convert_split(RECIPE, tiny(corpus), split, log=lambda line: None)
    binaries = Path(sys.executable).parent
    msrun = [binaries / "msrun", "--worker_num=2", "--local_worker_num=2", "--join=True"]
    msrun += [f"--master_port={20000 + os.getpid() % 20000}", f"--log_dir={folder / 'log'}"]
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment |= {"MS_RETRY_INTERVAL_LOWER": "1", "MS_RETRY_INTERVAL_UPPER": "1"}
    done = subprocess.run(
        [*msrun, TESTS / "ranks_job.py", corpus, folder],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    logs = [path.read_text()[-3000:] for path in sorted((folder / "log").glob("worker*.log"))]
    assert (folder / "rank1.json").is_file() and (folder / "rank0.json").is_file(), logs
    assert done.returncode != 0  # rank 1 ended with code 3
    return folder


@pytest.fixture(scope="module")
def said(together) -> list[dict]:
    return [json.loads((together / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def found(together) -> list[dict]:
    return [dict(np.load(together / f"rank{rank}.npz")) for rank in range(2)]


@pytest.fixture(scope="module")
def expected(cpu) -> dict:
    return job.steps(ProcessGroup())


@pytest.mark.launcher
def test_two_ranks_take_the_steps_of_one(found, expected):
    for number in (*range(job.STEPS), job.CUT, job.IDLE):
        key = f"{number}.gradient"
        norm = np.linalg.norm(expected[key])
        # As weights drift apart, gradients do too; the first and the special steps come first.
        tolerance = 1e-5 if number == 0 else 1e-3
        assert np.linalg.norm(found[0][key] - expected[key]) < tolerance * norm, number
        np.testing.assert_allclose(found[0][f"{number}.loss"], expected[f"{number}.loss"], 1e-4)
        assert found[0][f"{number}.applied"] and expected[f"{number}.applied"]
    last = {name: value for name, value in expected.items() if name.startswith(f"{job.IDLE}:")}
    assert any("moving_mean" in name for name in last) and any("ema." in name for name in last)
    for number in (job.STEPS - 1, job.IDLE):
        for name in (name.partition(":")[2] for name in last):
            np.testing.assert_allclose(
                found[0][f"{number}:{name}"], expected[f"{number}:{name}"], 1e-4, 1e-4, err_msg=name
            )
    moved = expected[f"{job.STEPS - 1}:fc.module.weight"] - expected["0:fc.module.weight"]
    assert np.abs(moved).max() > 0.01


@pytest.mark.launcher
def test_ranks_are_the_same_to_the_last_bit(found):
    assert set(found[0]) == set(found[1])
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value, err_msg=name)


@pytest.mark.launcher
def test_an_utterance_of_one_rank_that_is_not_finite_is_named_by_all_and_nothing_moves(found):
    for each in found:
        assert not each[f"{job.NAN}.applied"] and each[f"{job.NAN}.blamed"] == [
            f"{job.NAN}-11 (rank 1)"
        ]
        assert each[f"{job.NAN}.scale"] == each[f"{job.CUT}.scale"]
        after = [name for name in each if name.startswith(f"{job.NAN}:")]
        assert after
        for name in after:
            which = name.partition(":")[2]
            np.testing.assert_array_equal(each[name], each[f"{job.CUT}:{which}"])


@pytest.mark.launcher
def test_sums_of_independent_normalisations_are_not_mixed_up(said):
    alone = job.branches(ProcessGroup())
    for each in said:
        np.testing.assert_allclose(each["branches"], alone, 1e-3, 1e-2)


@pytest.mark.launcher
def test_dropout_differs_between_ranks_and_goes_on_as_before_on_the_first(cpu, said):
    first, second = (each["masks"] for each in said)
    assert len({*first, *second}) == 4
    assert first == job.dropout_masks(ProcessGroup())


@pytest.mark.launcher
def test_ranks_of_one_host_share_its_memory(said):
    assert [each["neighbours"] for each in said] == [2, 2]


@pytest.mark.launcher
def test_a_rank_whose_data_fail_ends_the_others_and_the_run_goes_on_exactly(together, said):
    first, second = said
    assert first["failed"] == "REMOTE_FAILURE: rank 1 ended: records0.md: cannot be read"
    assert second["failed"] == "UserError: records0.md: cannot be read"
    assert first["stopped_at"] == job.FAILS_AT
    assert first["whole"] == second["whole"] == "FINISHED: "
    assert first["resumed"] == second["resumed"] == "FINISHED: "
    last = "checkpoint/tiny-last.ckpt"
    whole, resumed = (load(together / run / last) for run in ("whole", "failed"))
    assert resumed.metadata["progress"]["step"] == whole.metadata["progress"]["step"] == 9
    assert set(resumed.parameters) == set(whole.parameters)
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(resumed.parameters[name], value, err_msg=name)


@pytest.mark.launcher
def test_only_rank_0_writes(together):
    names = {path.name for path in (together / "whole").iterdir()}
    pictures = {"curves.png", "emissions.gif", "emissions.png", "emissions.npz"}
    assert names == {"checkpoint", "metrics.csv", "train0.log", "train1.log", *pictures}
    with (together / "whole" / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6", "9"]
    lines = (together / "whole" / "train0.log").read_text()
    assert "on each of 2 ranks" in lines and "best WER" in lines
