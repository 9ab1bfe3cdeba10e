"""Scoring: jiwer's figures, every utterance once, the same text in any batch."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from synthetic_corpus import LABELS, memory_for, trained

from common import cli
from common.config import LMConfig
from common.data.dataset import ManifestDataset, ReadFailure
from common.data.manifest import Utterance, read_manifest
from common.decoding.decoders import Decoder, GreedyDecoder, make_decoder
from common.decoding.prefix_beam_search import Hypothesis
from common.evaluation.evaluate import Evaluation, RankShard, evaluate, recognise
from common.memory import GIB, ForwardMemoryEstimate, forecast_forward
from common.model.decoder import CTCDecoder
from common.model.speech_model import Forward, SpeechModel
from common.text.tokenizer import CharacterTokenizer
from common.utils import runtime
from common.utils.errors import UserError
from common.utils.files import file_name
from deepspeech2.src.recipe import RECIPE

GARBLED = ["AB CD", "", "DDA BB AA", "ABCD", "C", "B A D C", "AA"]


@pytest.fixture(scope="module")
def speech_model() -> SpeechModel:
    path = trained() / "checkpoint" / "tiny-best.ckpt"
    return SpeechModel.from_checkpoint(RECIPE, path, "CPU")


@pytest.fixture(scope="module")
def forward(speech_model) -> Forward:
    return Forward(speech_model)


@pytest.fixture(scope="module")
def source(speech_model) -> ManifestDataset:
    """The recordings of the training and of the test set."""
    utterances = read_manifest([trained() / "train.csv", trained() / "test.csv"])
    return ManifestDataset(utterances, speech_model.featurizer, speech_model.tokenizer)


@pytest.fixture(scope="module")
def alone(speech_model, forward, source) -> dict[int, tuple[str, np.ndarray]]:
    """Each utterance recognised by itself."""
    decoder = GreedyDecoder(speech_model.tokenizer)
    found = list(recognise(speech_model, CTCDecoder(forward, decoder), source, batch_size=1))
    assert sorted(each.index for each in found) == list(range(17))
    return {each.index: (each.text, each.log_probs) for each in found}


def audio(source: ManifestDataset, index: int) -> Path:
    return next(iter(source.read([index]))).audio.path


def scored(speech_model, forward, source, batch_size=4, **more) -> Evaluation:
    decoder = more.pop("decoder", GreedyDecoder(speech_model.tokenizer))
    return evaluate(
        speech_model, CTCDecoder(forward, decoder), source, batch_size, progress=None, **more
    )


class Garbling(Decoder):
    """Hears something else."""

    def __init__(self):
        self.supply = iter(GARBLED * 3)

    def hypotheses(self, log_probs, lengths):
        return [[Hypothesis(next(self.supply), 0.0)] for _ in lengths]


def assert_like_jiwer(found: Evaluation, references: list[str]) -> None:
    hypotheses = [utterance.hypothesis for utterance in found.utterances]
    words = jiwer.process_words(references, hypotheses)
    characters = jiwer.process_characters(references, hypotheses)
    assert found.wer == pytest.approx(100 * words.wer)
    assert found.cer == pytest.approx(100 * characters.cer)
    for counts, theirs in ((found.words, words), (found.characters, characters)):
        assert counts.errors == theirs.substitutions + theirs.deletions + theirs.insertions
        assert counts.length == theirs.hits + theirs.substitutions + theirs.deletions
        assert counts.insertions - counts.deletions == theirs.insertions - theirs.deletions


def test_error_rates_agree_with_jiwer(speech_model, forward, source):
    found = scored(speech_model, forward, source)
    assert [utterance.id for utterance in found.utterances] == source.ids
    assert [utterance.reference for utterance in found.utterances] == source.texts
    assert_like_jiwer(found, source.texts)
    assert 0 < found.cer < 80  # the network has learnt something, not everything


def test_error_rates_of_bad_hypotheses_agree_with_jiwer(speech_model, forward, source):
    found = scored(speech_model, forward, source, decoder=Garbling())
    assert_like_jiwer(found, source.texts)
    assert found.words.insertions > 0 and found.words.deletions > 0
    assert found.words.substitutions > 0 and found.wer > 80


def test_padding_to_a_multiple_changes_nothing(speech_model, forward, source, alone):
    config = copy.deepcopy(speech_model.config)
    config.DataConfig.pad_align = 64
    seen, decoder = [], GreedyDecoder(speech_model.tokenizer)

    def watched(features, lengths):
        seen.append(features.shape[2])
        return forward(features, lengths)

    aligned = replace(speech_model, config=config)
    for found in recognise(aligned, CTCDecoder(watched, decoder), source, batch_size=4):
        text, log_probs = alone[found.index]
        assert found.text == text
        np.testing.assert_allclose(found.log_probs, log_probs, atol=1e-4)
    assert seen and all(frames % 64 == 0 for frames in seen)


def test_without_a_space_among_han_labels_wer_is_cer(speech_model, forward):
    """The same network with 你 where the space was: texts without spaces, in and out."""
    unspaced = replace(speech_model, tokenizer=CharacterTokenizer(tuple("ABCD你_")))
    utterances = read_manifest([trained() / "train.csv", trained() / "test.csv"])
    assert any(" " in utterance.text for utterance in utterances)
    source = ManifestDataset(utterances, unspaced.featurizer, unspaced.tokenizer)
    found = scored(unspaced, forward, source)
    hypotheses = [utterance.hypothesis for utterance in found.utterances]
    assert not any(" " in text for text in [*source.texts, *hypotheses])
    assert found.wer == found.cer == pytest.approx(100 * jiwer.cer(source.texts, hypotheses))
    assert found.words == found.characters and 0 < found.wer < 100
    assert found.summary()[0].startswith("WER counts characters: ")
    assert found.of_all(found.counts()).summary() == found.summary()
    for each in found.utterances:
        assert [wanted for wanted, _ in each.pairs if wanted] == list(each.reference)
        assert sum(wanted != heard for wanted, heard in each.pairs) == each.words.errors


def test_single_words_are_words_without_a_space_among_the_labels(speech_model, forward):
    """The same network with E where the space was, on texts of one word."""
    unspaced = replace(speech_model, tokenizer=CharacterTokenizer(tuple("ABCDE_")))
    utterances = read_manifest([trained() / "train.csv", trained() / "test.csv"])
    single = [utterance for utterance in utterances if " " not in utterance.text]
    source = ManifestDataset(single, unspaced.featurizer, unspaced.tokenizer)
    found = scored(unspaced, forward, source)
    hypotheses = [utterance.hypothesis for utterance in found.utterances]
    assert found.words.length == len(single) and found.characters.length > len(single)
    assert found.wer == pytest.approx(100 * jiwer.wer(source.texts, hypotheses))
    assert found.cer == pytest.approx(100 * jiwer.cer(source.texts, hypotheses))
    assert found.summary()[0].startswith(f"words: {len(single)}, ")


def in_shapes(shapes: str, speech_model: SpeechModel, monkeypatch) -> SpeechModel:
    """`static`: as Ascend has them."""
    monkeypatch.setattr(speech_model.config.DataConfig, "static_shapes", 2)
    found = replace(speech_model, device="Ascend" if shapes == "static" else "CPU")
    assert found.static == (shapes == "static")
    return found


@pytest.mark.parametrize("shapes", ["dynamic", "static"])
@pytest.mark.parametrize("batch_size", [3, 16])
def test_each_utterance_is_scored_once_and_alike_in_any_batch(
    speech_model, forward, source, alone, batch_size, shapes, monkeypatch
):
    speech_model = in_shapes(shapes, speech_model, monkeypatch)
    forward = Forward(speech_model) if speech_model.static else forward
    decoder = GreedyDecoder(speech_model.tokenizer)
    found = list(recognise(speech_model, CTCDecoder(forward, decoder), source, batch_size))
    assert sorted(each.index for each in found) == list(range(len(source)))
    for each in found:
        text, log_probs = alone[each.index]
        assert each.id == source.ids[each.index]
        assert each.log_probs.shape == log_probs.shape
        np.testing.assert_allclose(each.log_probs, log_probs, atol=1e-4)
        assert each.text == text


def test_batches_of_a_rank_fit_the_memory_of_its_share(speech_model, forward, source):
    longest = int(source.frames.max())
    memory = 0.8 * memory_for(longest, speech_model)
    sizes = []

    def watched(features, lengths):
        sizes.append(features.shape[0] * features.shape[2])
        return forward(features, lengths)

    part, decoder = RankShard(0, 1, 0, memory), GreedyDecoder(speech_model.tokenizer)
    assert len(
        list(recognise(speech_model, CTCDecoder(watched, decoder), source, 8, part=part))
    ) == len(source)
    assert max(sizes) <= longest
    with pytest.raises(UserError, match="cut it into pieces"):
        list(
            recognise(
                speech_model,
                CTCDecoder(watched, decoder),
                source,
                8,
                part=RankShard(0, 1, 0, memory / 2),
            )
        )


@pytest.mark.parametrize("shapes", ["dynamic", "static"])
def test_batches_fit_the_memory(speech_model, forward, source, alone, shapes, monkeypatch):
    speech_model = in_shapes(shapes, speech_model, monkeypatch)
    forward = Forward(speech_model) if speech_model.static else forward
    longest = -(-int(source.frames.max()) // 8) * 8  # what static shapes are rounded to
    memory = memory_for(2 * longest, speech_model)
    monkeypatch.setattr(runtime, "machine_memory", lambda: memory)
    monkeypatch.setattr(runtime, "card_memory", lambda device: memory)
    assert forecast_forward(speech_model).most_frames == 2 * longest
    sizes = []

    def watched(features, lengths):
        sizes.append((len(features), features.shape[2]))
        return forward(features, lengths)

    decoder = GreedyDecoder(speech_model.tokenizer)
    found = list(recognise(speech_model, CTCDecoder(watched, decoder), source, batch_size=8))
    assert {each.index: each.text for each in found} == {
        index: text for index, (text, _) in alone.items()
    }
    assert len(found) == len(source)
    assert max(rows * frames for rows, frames in sizes) <= 2 * longest
    assert max(rows for rows, _ in sizes) >= 2
    if shapes == "static":
        assert len(set(sizes)) == 2

    memory = memory_for(int(source.frames.max()) - 1, speech_model)
    name = source.ids[int(source.frames.argmax())]
    with pytest.raises(UserError, match=rf"^utterance {name}: . s take about .* cut it into"):
        next(recognise(speech_model, CTCDecoder(watched, decoder), source, batch_size=8))


def test_a_recording_too_long_for_the_memory_is_refused_with_figures():
    forecast = ForwardMemoryEstimate(
        fixed=2 * GIB, per_frame=GIB / 4096, limit=12 * GIB, frame_seconds=0.01
    )
    assert forecast.most_frames == 40960
    forecast.check("a.wav", 40960)
    with pytest.raises(UserError) as refused:
        forecast.check("a.wav", 61440)
    assert str(refused.value) == (
        "a.wav: 614 s take about 17.0 GiB to recognise, and 12.0 GiB are allowed (80 % of this "
        "machine's memory, or less while training): cut it into pieces of at most 410 s"
    )


def test_save_output_writes_log_probabilities(speech_model, forward, source, alone, tmp_path):
    scored(speech_model, forward, source, save_output=tmp_path / "a" / "b")
    kept = {path.stem: np.load(path) for path in (tmp_path / "a" / "b").iterdir()}
    assert kept.keys() == set(source.ids)
    for index, (_, log_probs) in alone.items():
        np.testing.assert_allclose(kept[source.ids[index]], log_probs, atol=1e-4)
        frames = speech_model.output_frames(source.frames[index])
        assert kept[source.ids[index]].shape == (frames, 6)
        np.testing.assert_allclose(np.exp(kept[source.ids[index]]).sum(axis=1), 1, atol=1e-4)


def test_letters_have_the_times_of_their_log_probabilities(speech_model, forward, source, alone):
    """A frame of the network is two of the features (its stride), 10 ms each."""
    found = scored(speech_model, forward, source)
    for index, (_, log_probs) in alone.items():
        letters, times, frame = "", [], 0
        for label, run in groupby(log_probs.argmax(axis=1)):
            if label != LABELS.index("_"):
                letters += LABELS[label]
                times.append(0.02 * frame)
            frame += len(list(run))
        utterance = found.utterances[index]
        assert "".join(utterance.letters) == letters and letters
        np.testing.assert_allclose(utterance.times, times, atol=1e-9)
        assert utterance.duration == pytest.approx(soundfile.info(audio(source, index)).duration)
        assert " ".join(letters.split()) == utterance.hypothesis


def test_ids_become_different_file_names():
    ids = ["a/b", "a_b", "a%2Fb", "a b", "ä", "../x", "a:b"]
    names = [file_name(name) for name in ids]
    assert names[:3] == ["a%2Fb", "a_b", "a%252Fb"]
    assert len(set(names)) == len(ids) and not any("/" in name for name in names)


def test_an_output_folder_that_cannot_be_created_is_named(speech_model, forward, source):
    with pytest.raises(UserError, match="save_output /dev/null/x: cannot be made"):
        scored(speech_model, forward, source, save_output=Path("/dev/null/x"))


def test_the_blank_share_is_that_of_all_frames(speech_model, forward, source, alone):
    best = np.concatenate([log_probs.argmax(axis=1) for _, log_probs in alone.values()])
    found = scored(speech_model, forward, source)
    assert found.blank_share == pytest.approx((best == speech_model.tokenizer.blank).mean())
    assert 0 < found.blank_share < 1


@pytest.mark.parametrize(("ranks", "watched"), [(2, 0), (3, 11), (8, 16)])
def test_figures_of_all_ranks_add_up_exactly_to_those_of_one_process(
    speech_model, forward, source, ranks, watched
):
    whole = scored(speech_model, forward, source)
    parts = [
        scored(speech_model, forward, source, part=RankShard(rank, ranks, watched))
        for rank in range(ranks)
    ]
    ids = [[utterance.id for utterance in part.utterances] for part in parts]
    assert sorted(sum(ids, [])) == sorted(source.ids) and source.ids[watched] in ids[0]
    assert sum(map(bool, ids)) == min(ranks, 5)  # batches of 4
    counts = np.sum([part.counts() for part in parts], axis=0)
    found = parts[0].of_all(counts.astype(float))
    assert (found.words, found.characters) == (whole.words, whole.characters)
    assert (found.wer, found.cer, found.blank_share) == (whole.wer, whole.cer, whole.blank_share)
    assert found.utterances == parts[0].utterances and 0 < found.blank_share < 1


def test_the_summary_ends_as_the_originals_does(speech_model, forward, source):
    seen = []
    found = scored(speech_model, forward, source, on_scored=seen.append)
    assert sorted(each.id for each in seen) == sorted(source.ids)
    words, characters, summary = found.summary()
    assert summary == f"Test Summary \tAverage WER {found.wer:.3f}\tAverage CER {found.cer:.3f}"
    assert words.startswith(f"words: {sum(len(text.split()) for text in source.texts)}, errors ")
    assert characters.startswith(f"characters: {sum(map(len, source.texts))}, errors ")


def test_an_utterance_prints_reference_hypothesis_and_rates(speech_model, forward, source):
    found = scored(speech_model, forward, source, decoder=Garbling())
    assert len(found.utterances) == len(source)
    for each in found.utterances:
        wer = 100 * jiwer.wer(each.reference, each.hypothesis)
        cer = 100 * jiwer.cer(each.reference, each.hypothesis)
        assert each.lines() == [
            f"Ref: {each.reference}",
            f"Hyp: {each.hypothesis}",
            f"WER: {wer:.2f}  CER: {cer:.2f}  {each.id}",
        ]


def test_alternatives_are_printed_between_hypothesis_and_rates(speech_model, forward, source):
    config = LMConfig(decoder_type="beam", beam_width=20, top_paths=3, lm_workers=1)
    decoder = make_decoder(config, speech_model.tokenizer)
    found = scored(speech_model, forward, source, decoder=decoder)
    assert_like_jiwer(found, source.texts)
    for each in found.utterances:
        _, best, *alternatives, _ = each.lines()
        texts = [line.split(maxsplit=1)[1] for line in alternatives]
        scores = [float(line.split()[0]) for line in alternatives]
        assert len(set(texts)) == 3 and texts[0] == each.hypothesis == best.removeprefix("Hyp: ")
        assert scores == sorted(scores, reverse=True)


# ---- recordings that cannot be read, and how often the others are


@pytest.fixture
def mixed(tmp_path, monkeypatch) -> Path:
    """A manifest of two good recordings and three bad ones, of which headers show two."""
    monkeypatch.chdir(tmp_path)
    for number in (0, 1):
        shutil.copy(trained() / "test" / f"test{number}.wav", tmp_path)
    samples, rate = soundfile.read("test0.wav")
    soundfile.write("lying.flac", np.tile(samples, 4), rate)
    content = bytearray(Path("lying.flac").read_bytes())
    content[len(content) // 2] ^= 0xFF
    Path("lying.flac").write_bytes(content)
    Path("text.wav").write_text("not a recording")
    rows = ["gone.wav,AB", "test0.wav,AB!", "lying.flac,C?", "text.wav,A", "test1.wav,CD"]
    Path("mixed.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """How often soundfile has decoded each file."""
    counts, read = Counter(), soundfile.SoundFile.read

    def counted(self, *arguments, **keywords):
        counts[Path(os.readlink(f"/proc/self/fd/{self.name}")).name] += 1
        return read(self, *arguments, **keywords)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    return counts


BAD = [
    r"audio file .*gone\.wav: No such file or directory",
    r"audio file .*lying\.flac: (truncated|damaged).*",
    r"audio file .*text\.wav: damaged, truncated or not audio .*",
]


def assert_lines(lines: list[str], patterns: list[str]) -> None:
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns):
        assert re.fullmatch(pattern, line), line


def run_eval(manifest: Path, *options: str) -> None:
    checkpoint = str(trained() / "checkpoint" / "tiny-best.ckpt")
    keys = [f"test_manifest={manifest}", "verbose=false", "batch_size=3", *options]
    cli.evaluate(RECIPE, ["--pretrain_ckpt", checkpoint, "--set", *keys])


def test_eval_decodes_each_recording_once_and_reports_bad_ones_in_order(mixed, reads, capsys):
    with pytest.raises(UserError, match=r"^3 of 5 recordings were not read"):
        run_eval(mixed / "mixed.csv")
    assert reads == {"test0.wav": 1, "test1.wav": 1, "lying.flac": 1}
    captured = capsys.readouterr()
    unknown = "references hold characters without a label, which are errors: '!' in 1"
    assert_lines(captured.err.splitlines(), [*BAD, unknown])
    printed = captured.out.splitlines()
    assert printed[1] == "utterances: 2, 0.00 hours"
    (mixed / "good.csv").write_text("test0.wav,AB!\ntest1.wav,CD")
    run_eval(mixed / "good.csv")
    assert capsys.readouterr().out.splitlines()[1:] == printed[1:]


def test_eval_scores_segments_as_recordings_and_counts_the_copies_it_leaves_out(mixed, capsys):
    parts = [soundfile.read(f"test{number}.wav")[0] for number in (0, 1)]
    _, rate = soundfile.read("test0.wav")
    soundfile.write("joined.wav", np.concatenate(parts), rate)
    first, second = (len(part) / rate for part in parts)
    lines = [
        {"audio_filepath": "joined.wav", "offset": 0, "duration": first, "text": "AB"},
        {"audio_filepath": "joined.wav", "offset": first, "duration": second, "text": "CD"},
        {"audio_filepath": "test0.wav", "speed": 0.9, "text": "AB", "lang": "xx"},
    ]
    (mixed / "segments.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run_eval(mixed / "segments.jsonl")
    said = capsys.readouterr()
    assert f"{mixed / 'segments.jsonl'}: 1 of 3 recordings left out: copies" in said.out
    assert said.err.endswith("with the number of their lines: lang (1)\n")
    (mixed / "good.csv").write_text("test0.wav,AB\ntest1.wav,CD")
    run_eval(mixed / "good.csv")
    assert said.out.splitlines()[-4:] == capsys.readouterr().out.splitlines()[-4:]


def test_a_report_decodes_again_only_the_utterances_that_it_plays(mixed, reads):
    with pytest.raises(UserError, match=r"^3 of 5 recordings were not read"):
        run_eval(mixed / "mixed.csv", "report=page.html", "report_utterances=1")
    assert sorted(reads.values()) == [1, 1, 2] and reads["lying.flac"] == 1
    page = (mixed / "page.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 1 and page.count("<article") == 2
    assert "3 of 5 recordings" in page


def test_eval_stops_where_no_recording_can_be_read(mixed, capsys):
    (mixed / "bad.csv").write_text("gone.wav,AB\nlying.flac,CD")
    with pytest.raises(UserError, match=r"bad\.csv: not one of its recordings can be read"):
        run_eval(mixed / "bad.csv")
    assert_lines(capsys.readouterr().err.splitlines(), BAD[:2])


def test_transcribe_decodes_each_recording_once_and_keeps_the_order(mixed, reads, capsys):
    checkpoint = str(trained() / "checkpoint" / "tiny-best.ckpt")
    files = ["test1.wav", "gone.wav", "lying.flac", "test0.wav", "text.wav"]
    assert cli.transcribe(RECIPE, [*files, "--pretrain_ckpt", checkpoint]) == 1
    assert reads == {"test0.wav": 1, "test1.wav": 1, "lying.flac": 1}
    captured = capsys.readouterr()
    names = [line.split("\t")[0] for line in captured.out.splitlines()]
    assert names == ["test1.wav", "test0.wav"]
    bad = [f"error: {line}" for line in BAD]
    assert_lines(captured.err.splitlines(), [*bad, "error: 3 of 5 files were not read"])


@pytest.mark.parametrize("shapes", ["dynamic", "static"])
def test_an_undecodable_recording_does_not_change_the_others(
    speech_model, forward, source, mixed, alone, shapes, monkeypatch
):
    """In a batch of its own, and in one with others."""
    speech_model = in_shapes(shapes, speech_model, monkeypatch)
    forward = Forward(speech_model) if speech_model.static else forward
    utterances = [
        replace(utterance, text="") for utterance in read_manifest(trained() / "test.csv")
    ]
    utterances.insert(2, Utterance("lying", mixed / "lying.flac", ""))
    features, tokenizer = speech_model.featurizer, speech_model.tokenizer
    dataset = ManifestDataset(utterances, features, tokenizer, labelled=False)
    texts = {source.ids[index]: text for index, (text, _) in alone.items()}
    for batch_size in (1, 4):
        failures: list[ReadFailure] = []
        decoder = CTCDecoder(forward, GreedyDecoder(tokenizer))
        predictions = recognise(
            speech_model, decoder, dataset, batch_size, on_unreadable=failures.append
        )
        found = {prediction.id: prediction.text for prediction in predictions}
        assert found == {name: texts[name] for name in dataset.ids if name != "lying"}
        assert [(failure.index, failure.id) for failure in failures] == [(2, "lying")]
