"""Breaks training runs at random moments, has them go on, and compares what they end with.

python tests/soak_resume.py --rounds 30 [--seed 0] [--first 0] [--folder DIR]

Each round starts a tiny network's training with a launcher's script, as users do, on one process or
two. Something happens to it: a process is killed, stopped or ends too early, the disk is full, the
shards of one rank cannot be read or hold NaN. Then, as long as it is to: the others have ended,
every checkpoint there is can be read, and the run goes on (RESUME=1, or by itself with --restarts)
to the weights and the optimizer's state of a run that nothing happened to, to the last bit.

A round depends on (seed, its number) but for the system's own timing. One line a round, a summary;
the exit code is 1 if a round has failed. Linux, no root needed. The disk is full for files of more
than half a checkpoint: a limit of the processes (RLIMIT_FSIZE) that is set while they run.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import conftest  # noqa: F401  (sets the environment before mindspore loads)
import numpy as np
import yaml
from launcher_clone import copy_launcher
from synthetic_corpus import make_corpus, settings

from common.launching.supervise import descendants
from common.launching.watching import Signs

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1800.0  # seconds for anything to happen, on the busiest machine
HANG = 40.0  # seconds: --hang_timeout of rounds with a hang
PREFIX, LAST = "tiny", "tiny-last.ckpt"

# Instead of the entry point, which it runs: rank 1 has its own copy of the data, as if on another
# host, and any rank can be told to end as if all were well.
ENTRY = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGUSR2, lambda *_: os._exit(0))
if os.environ.get("RANK_ID") == "1":
    sys.argv += ["--set", "mindrecord_format=elsewhere/{{split}}/tones{{}}.md"]
runpy.run_path({str(ROOT / "deepspeech2" / "train.py")!r}, run_name="__main__")
"""


class Failed(Exception):
    """What did not come as promised."""


@dataclass(frozen=True)
class Kind:
    """Something that may happen, and what is then promised."""

    name: str
    ranks: tuple[int, ...]  # of how many a job may be that it happens to
    codes: tuple[int, ...]  # exit codes that the launcher may end with
    restarts: bool  # whether the launcher goes on by itself, if it may
    happens: Callable[[Run, np.random.Generator], str]  # returns what it was, in words
    mend: Callable[[Place], None] = lambda place: None


class Place:
    """A clone of what is launched, with its data, in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.model = folder, folder / "deepspeech2"
        self.checkpoints, self.temporary = self.model / "checkpoint", folder / "tmp"
        cache = shutil.ignore_patterns("__py*")
        shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=cache)
        copy_launcher(folder)
        shutil.copytree(ROOT / "deepspeech2" / "scripts", self.model / "scripts")
        (self.model / "train.py").write_text(ENTRY)
        self._corpus()

    def _corpus(self) -> None:
        from common import config as configs
        from common.data.mindrecord import open_dataset
        from common.data.splits import convert_split
        from deepspeech2.src.config import TrainConfig
        from deepspeech2.src.recipe import RECIPE

        values = settings(make_corpus(self.folder / "corpus", train=8))
        values["TrainingConfig"] |= {"epochs": 5, "eval_every": 2, "max_nonfinite": 1}
        values["DataConfig"] |= {
            "store": "features",
            "val_manifest": "",
            "test_manifest": "",
            "batch_size": 2,
            "mindrecord_format": "here/{split}/tones{}.md",
        }
        values["ModelConfig"] |= {"hidden_size": 8, "hidden_layers": 1, "dropout": 0.1}
        values["CheckpointConfig"] |= {"keep_checkpoint_max": 3}
        (self.model / "tiny.yaml").write_text(yaml.safe_dump(values))
        config = TrainConfig()
        configs.override(config, values, "soak")
        config.DataConfig.mindrecord_format = str(self.model / "here/{split}/tones{}.md")
        convert_split(RECIPE, config, "train", log=lambda line: None)
        shutil.copytree(self.model / "here", self.folder / "whole")
        source = open_dataset(self.folder / "whole" / "train")
        # Of each utterance's features some, as they lie in a shard.
        self.rows = [row.features.ravel()[:64] for row in source.read(range(len(source)))]
        self.mend()

    def mend(self) -> None:
        """Rank 1 has whole data again."""
        shutil.rmtree(self.model / "elsewhere", ignore_errors=True)
        shutil.copytree(self.folder / "whole", self.model / "elsewhere")

    def shards(self) -> list[Path]:
        """Of rank 1."""
        return sorted((self.model / "elsewhere" / "train").glob("tones*.md"))

    def clear(self) -> None:
        for folder in (self.checkpoints, self.temporary, self.model / "log"):
            shutil.rmtree(folder, ignore_errors=True)
        self.temporary.mkdir()

    def left(self) -> list[str]:
        """Command lines of processes of a job that run still."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                if f"TMPDIR={self.temporary}".encode() in variables:
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
        return found

    def state(self) -> tuple[dict, dict]:
        """Weights and optimizer's state, and where the run is, of the newest checkpoint."""
        from common.model.checkpoint import load

        found = load(self.checkpoints / LAST)
        measured = ("seconds", "busy", "waiting")  # by the clock
        progress = {k: v for k, v in found.metadata["progress"].items() if k not in measured}
        return found.parameters, progress

    def check_checkpoints(self) -> int:
        """The step of the newest one, 0 where there is none; raises UserError for one that is not
        whole."""
        from common.model.checkpoint import load

        numbered = self.checkpoints.glob(f"{PREFIX}-*_*.ckpt")
        steps = [load(path).metadata["progress"]["step"] for path in numbered]
        last = self.checkpoints / LAST
        if not last.is_file():
            return 0  # the first one may have been written, and not linked yet
        step = load(last).metadata["progress"]["step"]
        # A kill may come between a checkpoint and its second name.
        if step not in steps or max(steps) - step > 2:
            raise Failed(f"{LAST} is of step {step}, the numbered ones are of {sorted(steps)}")
        return step


class Run:
    """A launcher that was started."""

    def __init__(self, place: Place, ranks: int, *options: str, **environment: str):
        self.place, self.ranks = place, ranks
        for old in place.temporary.glob("launch-*"):  # of a launcher that was killed
            shutil.rmtree(old)
        script = "run_standalone_train_cpu.sh" if ranks == 1 else "run_distribute_train_cpu.sh"
        count = [] if ranks == 1 else [str(ranks)]
        line = ["bash", str(place.model / "scripts" / script), *count, "--config", "tiny.yaml"]
        variables = {
            **{"PYTHON": sys.executable, "TMPDIR": str(place.temporary), "DEVICE_TARGET": "CPU"},
            **{"OMP_NUM_THREADS": "1"},  # several processes on few cores
            **{"MS_RETRY_INTERVAL_LOWER": "1", "MS_RETRY_INTERVAL_UPPER": "1"},
        }
        self.said = place.temporary / f"said{len([*place.temporary.iterdir()])}.txt"
        with self.said.open("wb") as output:
            self.launcher = subprocess.Popen(
                [*line, *options],
                env={**os.environ, **variables, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.started = time.monotonic()

    @property
    def status(self) -> Path | None:
        return next(self.place.temporary.glob("launch-*"), None)

    def signs(self) -> Signs | None:
        if self.status is None:
            return None
        signs = Signs(self.status, [str(rank) for rank in range(self.ranks)])
        signs.look(0.0)
        return signs

    def process(self, rank: int) -> int:
        return self.signs().latest[str(rank)].pid

    def watcher(self, name: str) -> int:
        """What watches a rank, or the scheduler."""
        return int((self.status / name).read_text().split()[0])

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Whether it came true before the launcher ended."""
        deadline = time.monotonic() + LIMIT
        while self.launcher.poll() is None:
            with suppress(OSError, KeyError, ValueError, AttributeError):
                if condition():
                    return True
            if time.monotonic() > deadline:
                raise Failed(f"nothing happened for {LIMIT:g} s")
            time.sleep(0.002)
        return False

    def wait_for_step(self, step: int) -> bool:
        return self.wait_for(lambda: self.signs().latest["0"].steps >= step)

    def end(self) -> int:
        try:
            return self.launcher.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise Failed(f"the launcher did not end in {LIMIT:g} s") from None

    def kill(self) -> None:
        """Whatever is left of it."""
        for pid in [*descendants(self.launcher.pid), self.launcher.pid]:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait()


# ---- what happens


def _kill(pids: Iterator[int] | list[int]) -> None:
    for pid in list(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_rank(run: Run, rng: np.random.Generator) -> str:
    rank = int(rng.integers(run.ranks))
    _kill([run.process(rank)])
    return f"rank {rank}"


def kill_rank_and_watcher(run: Run, rng: np.random.Generator) -> str:
    rank = int(rng.integers(run.ranks))
    _kill([run.watcher(str(rank)), run.process(rank)])
    return f"rank {rank}"


def kill_all_ranks(run: Run, rng: np.random.Generator) -> str:
    _kill([run.process(rank) for rank in range(run.ranks)])
    return ""


def kill_while_saving(run: Run, rng: np.random.Generator) -> str:
    partial = f".{PREFIX}-*.partial*"
    seen = run.wait_for(lambda: any(run.place.checkpoints.glob(partial)))
    _kill([run.process(0)] if seen else [])
    return "rank 0"


def kill_scheduler(run: Run, rng: np.random.Generator) -> str:
    _kill(descendants(run.watcher("scheduler")))
    return ""


def kill_starter(run: Run, rng: np.random.Generator) -> str:
    parent = Path(f"/proc/{run.watcher('scheduler')}/stat").read_text().rpartition(")")[2].split()
    _kill([int(parent[1])])
    return ""


def kill_launcher(run: Run, rng: np.random.Generator) -> str:
    run.launcher.kill()
    return ""


def interrupt(run: Run, rng: np.random.Generator) -> str:
    run.launcher.send_signal(signal.SIGINT)
    return ""


def stop_rank(run: Run, rng: np.random.Generator) -> str:
    rank = int(rng.integers(run.ranks))
    os.kill(run.process(rank), signal.SIGSTOP)
    return f"rank {rank}"


def end_rank(run: Run, rng: np.random.Generator) -> str:
    rank = int(rng.integers(run.ranks))
    os.kill(run.process(rank), signal.SIGUSR2)
    return f"rank {rank}"


def fill_disk(run: Run, rng: np.random.Generator) -> str:
    room = (run.place.folder / "size").read_text()
    for rank in range(run.ranks):
        pid = run.process(rank)
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (int(room) // 2, hard))
    return ""


def truncate_shard(run: Run, rng: np.random.Generator) -> str:
    for shard in run.place.shards():
        os.truncate(shard, int(rng.integers(shard.stat().st_size)))
    return "rank 1"


def spoil_features(run: Run, rng: np.random.Generator) -> str:
    """Every feature of rank 1 becomes NaN, in place."""
    hit = 0
    for shard in run.place.shards():
        content = shard.read_bytes()
        with shard.open("r+b") as file:
            for row in run.place.rows:
                if (place := content.find(row.tobytes())) >= 0:
                    file.seek(place)
                    file.write(np.full_like(row, np.nan).tobytes())
                    hit += 1
    if hit < len(run.place.rows):
        raise Failed(f"only {hit} utterances were found in the shards")
    return "rank 1"


CRASH = (137, 134, 139, 70)
KINDS = (
    Kind("kill -9 of one rank", (1, 2), CRASH, True, kill_rank),
    Kind("kill -9 of one rank and its watcher", (2,), CRASH, True, kill_rank_and_watcher),
    Kind("kill -9 of all ranks", (2,), CRASH, True, kill_all_ranks),
    Kind("kill -9 while a checkpoint is written", (1, 2), CRASH, True, kill_while_saving),
    Kind("kill -9 of the scheduler", (2,), CRASH, True, kill_scheduler),
    Kind("kill -9 of msrun", (2,), CRASH, True, kill_starter),
    Kind("kill -9 of the launcher", (2,), (-9,), False, kill_launcher),
    Kind("Ctrl-C", (2,), (130,), False, interrupt),
    # 70: MindSpore's all-reduce for CPUs has given up waiting before the launcher has.
    Kind("a rank hangs", (1, 2), (124, 70), True, stop_rank),
    Kind("a rank ends too early with exit code 0", (1, 2), (70,), True, end_rank),
    Kind("a full disk", (1, 2), (1,), False, fill_disk),
    Kind("an unreadable shard on one rank", (2,), (1,), False, truncate_shard, Place.mend),
    Kind("NaN on one rank", (2,), (1,), False, spoil_features, Place.mend),
)


@dataclass(frozen=True)
class Round:
    """What is drawn for a round."""

    number: int
    kind: Kind
    ranks: int
    alone: bool  # the launcher is to go on by itself
    share: float  # of the run's steps before which it happens
    delay: float  # seconds after that


def draw(seed: int, number: int) -> tuple[Round, np.random.Generator]:
    """Each kind once in as many rounds as there are kinds, in an order of their own."""
    deck, place = divmod(number, len(KINDS))
    kind = KINDS[np.random.default_rng((seed, 1, deck)).permutation(len(KINDS))[place]]
    rng = np.random.default_rng((seed, 2, number))
    ranks = int(rng.choice(kind.ranks))
    alone = bool(kind.restarts and rng.random() < 0.5)
    return Round(number, kind, ranks, alone, rng.random() ** 1.5, rng.uniform(0, 0.03)), rng


def check_end(run: Run, code: int, codes: tuple[int, ...]) -> None:
    """After the launcher's end: its exit code is right, and nothing runs any more."""
    deadline = time.monotonic() + 20
    while left := run.place.left():
        if time.monotonic() > deadline:
            raise Failed(f"still running: {left}")
        time.sleep(0.05)
    if code not in codes:
        raise Failed(f"exit code {code}, expected {codes}")


def play(place: Place, drawn: Round, rng: np.random.Generator, expected: tuple) -> tuple[str, bool]:
    """One round: what came of it, and whether the run was broken before it ended. Raises Failed,
    UserError."""
    kind, ranks = drawn.kind, drawn.ranks
    place.clear()
    hangs = kind.happens is stop_rank
    options = ["--hang_timeout", f"{HANG if hangs else LIMIT:g}"]  # watched, if of one process too
    if drawn.alone:
        options += ["--restarts", "2"]
    _, progress = expected
    step = 1 + int(drawn.share * (progress["step"] - 1))
    run = Run(place, ranks, *options)
    try:
        hit = ""
        if run.wait_for_step(step):
            time.sleep(drawn.delay)
            with suppress(OSError, KeyError, AttributeError):  # it was faster
                hit = kind.happens(run, rng)
        code = run.end()
        restarts = run.said.read_text().count("\nrestart ")
        broken = bool(code or restarts)
        named = re.search(rf"\bwait(ed)? for {hit}\b", run.said.read_text())
        if broken and hangs and ranks > 1 and not named:
            raise Failed(f"the hanging {hit} was not named")
        if not broken:
            went_on = "the run ended first"
        elif drawn.alone:
            went_on = f"{restarts} restart{'s' * (restarts > 1)}"
        else:
            check_end(run, code, kind.codes)
            found = place.check_checkpoints()
            kind.mend(place)
            went_on = f"exit code {code}, checkpoint of step {found}, RESUME=1"
            run = Run(place, ranks, **({"RESUME": "1"} if found else {}))
            code = run.end()
        check_end(run, code, (0,))
        check_same(place.state(), expected)
        where = f", {hit}" if hit else ""
        return f"after step {step}{where}: {went_on}; same weights", broken
    finally:
        kind.mend(place)
        run.kill()


def check_same(found: tuple, expected: tuple) -> None:
    if found[1] != expected[1]:
        raise Failed(f"ended at {found[1]}, expected {expected[1]}")
    if set(found[0]) != set(expected[0]):
        raise Failed("other parameters than in the undisturbed run")
    for name, value in expected[0].items():
        if found[0][name].tobytes() != value.tobytes():
            off = np.abs(found[0][name].astype(float) - value).max()
            raise Failed(f"{name} differs from the undisturbed run's by up to {off:.3g}")


def undisturbed(place: Place, ranks: int) -> tuple[dict, dict]:
    place.clear()
    run = Run(place, ranks)
    try:
        if code := run.end():
            raise Failed(
                f"an undisturbed run of {ranks} ended with {code}:\n{run.said.read_text()}"
            )
        size = (place.checkpoints / LAST).stat().st_size
        (place.folder / "size").write_text(str(size))
        return place.state()
    finally:
        run.kill()


def soak(folder: Path, rounds: int, seed: int, first: int = 0) -> int:
    """Plays the rounds; returns how many have failed."""
    from common.utils.errors import UserError

    place, started = Place(folder), time.monotonic()
    expected: dict[int, tuple] = {}  # by the number of ranks
    failed = broken = 0
    for number in range(first, first + rounds):
        drawn, rng = draw(seed, number)
        if drawn.ranks not in expected:
            begun = time.monotonic()
            expected[drawn.ranks] = undisturbed(place, drawn.ranks)
            steps, spent = expected[drawn.ranks][1]["step"], time.monotonic() - begun
            print(f"undisturbed, {drawn.ranks} ranks: {steps} steps ({spent:.0f} s)", flush=True)
        clock, begun = time.strftime("%H:%M:%S"), time.monotonic()
        on = f"{drawn.ranks} rank{'s' * (drawn.ranks > 1)}"
        try:
            outcome, was_broken = play(place, drawn, rng, expected[drawn.ranks])
            outcome, broken = f"ok, {outcome}", broken + was_broken
        except (Failed, UserError) as error:
            failed += 1
            kept = folder / f"failed-{number}"
            shutil.copytree(place.model / "log", kept / "log", dirs_exist_ok=True)
            for said in place.temporary.glob("said*.txt"):
                shutil.copy(said, kept)
            outcome = f"FAILED: {error}; logs in {kept}"
        spent = time.monotonic() - begun
        print(f"round {number} {clock} {drawn.kind.name}, {on}: {outcome} ({spent:.0f} s)")
        sys.stdout.flush()
    spent = time.monotonic() - started
    print(
        f"{rounds - failed} of {rounds} rounds survived in {spent / 60:.1f} minutes; "
        f"in {broken} of these the run was broken, the others ended first"
    )
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--folder", type=Path, help="to work in, made, and kept")
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True)
        return min(soak(arguments.folder, arguments.rounds, arguments.seed, arguments.first), 1)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    failed = soak(folder, arguments.rounds, arguments.seed, arguments.first)
    if not failed:
        shutil.rmtree(folder)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
