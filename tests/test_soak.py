"""The soak's own logic, and one round of it: a rank hangs, is named, and the launcher goes on."""

from __future__ import annotations

import numpy as np
import pytest
import soak_resume as soak

from common.launching.watching import Signs
from common.training.heartbeat import BEAT, Heartbeat


def test_rounds_are_drawn_by_their_number_and_all_kinds_have_their_turn():
    count = len(soak.KINDS)
    drawn = [soak.draw(3, number)[0] for number in range(4 * count)]
    assert [soak.draw(3, number)[0] for number in (0, 7, 30)] == [drawn[0], drawn[7], drawn[30]]
    for deck in range(4):
        names = [each.kind.name for each in drawn[deck * count : (deck + 1) * count]]
        assert sorted(names) == sorted(kind.name for kind in soak.KINDS)
    assert all(each.ranks in each.kind.ranks for each in drawn)
    assert {each.alone for each in drawn if each.kind.restarts} == {True, False}
    assert not any(each.alone for each in drawn if not each.kind.restarts)
    assert [soak.draw(4, number)[0] for number in range(count)] != drawn[:count]


def test_a_difference_in_the_last_bit_is_seen():
    weights, progress = {"w": np.ones(3, np.float32)}, {"step": 7}
    other = {"w": np.nextafter(weights["w"], np.float32(2))}
    soak.check_same((weights, progress), ({"w": weights["w"].copy()}, dict(progress)))
    for found in ((other, progress), (weights, {"step": 6}), ({}, progress)):
        with pytest.raises(soak.Failed):
            soak.check_same(found, (weights, progress))


def test_signs_of_life_tell_who_is_behind(tmp_path, monkeypatch):
    hearts = []
    for rank in range(3):
        monkeypatch.setenv(BEAT, str(tmp_path / f"{rank}.beat"))
        hearts.append(Heartbeat())
    signs, names = Signs(tmp_path, list("012")), list("012")

    def looked(*seconds: float) -> float:
        for now in seconds:
            signs.look(now)
        return signs.quiet

    assert looked(10, 11, 12) == 2 and not signs.stepping
    # Graphs are compiled before the first step.
    assert (signs.limit(900), signs.limit(60)) == (3600, 1800)
    for heart in hearts:
        heart.collective_entered()
        heart.step_finished(41)
    assert looked(13) == 0 and signs.limit(60) == 60
    assert looked(14, 14.5) == 1.5
    assert looked(900) == 2.5  # the launcher was stopped meanwhile: that is not their silence
    hearts[0].collective_entered()
    hearts[2].collective_entered()
    assert looked(901) == 0 and signs.behind(names) == ["1"]
    assert signs.told("1").startswith("last seen after step 41 (process ")
    hearts[1].collective_entered()
    looked(902)
    assert signs.behind(names) == names  # it cannot be told
    assert not signs.done("1")
    hearts[1].finished()
    looked(903)
    assert signs.done("1") and not signs.done("0")
    assert signs.last() is None
    hearts[1].set_checkpoint(tmp_path / "x-last.ckpt")  # LAUNCH_BEAT is still that of rank 2
    assert signs.last() == tmp_path / "x-last.ckpt"


def test_a_rank_that_gave_no_sign_is_the_one_that_is_waited_for(tmp_path, monkeypatch):
    signs = Signs(tmp_path, list("012"))
    signs.look(0.0)
    assert signs.behind(list("012")) == list("012")
    for rank in "02":
        monkeypatch.setenv(BEAT, str(tmp_path / f"{rank}.beat"))
        Heartbeat()
    signs.look(1.0)
    assert signs.behind(list("012")) == ["1"] and not signs.stepping
    assert signs.told("1") == "not seen since it was started"


def test_without_a_launcher_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(BEAT, raising=False)
    heart = Heartbeat()
    heart.step_finished(1)
    heart.set_checkpoint(tmp_path / "x-last.ckpt")
    heart.finished()
    assert list(tmp_path.iterdir()) == []
    assert Signs(tmp_path, ["0"]).done("0")


def test_a_round(tmp_path, monkeypatch):
    """Two real processes from the real script, one of them stopped."""
    monkeypatch.setattr(soak, "HANG", 8.0)
    place = soak.Place(tmp_path / "soak")
    expected = soak.undisturbed(place, 2)
    hangs = next(kind for kind in soak.KINDS if kind.happens is soak.stop_rank)
    drawn = soak.Round(0, hangs, ranks=2, alone=True, share=0.4, delay=0.0)
    outcome, broken = soak.play(place, drawn, np.random.default_rng(1), expected)
    assert broken and "1 restart; same weights" in outcome
    assert expected[1]["step"] == 10 and expected[1]["epoch"] == 5
