"""What a recipe can bring of its own, shown with two models that need no change in `common`.

An encoder-decoder trained with cross-entropy, whose decoder spells a text label by label; and a CTC
network over syllables ("zhong1", "guo2") whose scored text is made of characters.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_corpus import RATE, make_corpus

from common import cli
from common import config as shared
from common.api import ModelFunctions
from common.audio.features import FeatureConfig, Featurizer
from common.decoding.prefix_beam_search import Hypothesis
from common.model import checkpoint as checkpoints
from common.model.decoder import DecodedUtterance, SpeechDecoder
from common.model.recipe import Recipe, ctc_decoder
from common.nn.layers import frame_mask
from common.text.tokenizer import CharacterTokenizer, Tokenizer
from common.utils.backend import Parameter, Tensor, ms, nn, ops
from common.utils.errors import UserError

BANDS = 12


@dataclass
class ModelConfig:
    channels: int = 24


@dataclass
class TrainConfig:
    TrainingConfig: shared.TrainingConfig = field(default_factory=shared.TrainingConfig)
    DataConfig: shared.DataConfig = field(default_factory=shared.DataConfig)
    ModelConfig: ModelConfig = field(default_factory=ModelConfig)
    OptimConfig: shared.OptimConfig = field(default_factory=shared.OptimConfig)
    CheckpointConfig: shared.CheckpointConfig = field(default_factory=shared.CheckpointConfig)
    LMConfig: shared.LMConfig = field(default_factory=shared.LMConfig)


def featurizer(data: shared.DataConfig) -> Featurizer:
    return Featurizer(FeatureConfig(kind="logmel", sample_rate=RATE, bands=BANDS))


def half(frames):
    return (frames - 1) // 2 + 1


def drawn(rng: np.random.Generator, *shape: int) -> Tensor:
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return Tensor(rng.normal(0, scale, shape).astype(np.float32))


class Encoder(nn.Cell):
    """features (B, F, T), lengths (B,) -> states (B, C, T'), lengths (B,), mask (B, T')."""

    def __init__(self, dimension: int, channels: int, rng: np.random.Generator):
        super().__init__()
        self.first = self._convolution(dimension, channels, 2, rng)
        self.second = self._convolution(channels, channels, 1, rng)

    @staticmethod
    def _convolution(inputs: int, outputs: int, stride: int, rng) -> nn.Cell:
        weight = drawn(rng, outputs, inputs, 1, 7)
        edges = (0, 0, 3, 3)
        return nn.Conv2d(inputs, outputs, (1, 7), (1, stride), "pad", edges, weight_init=weight)

    def construct(self, features, lengths):
        mask = frame_mask(lengths, features.shape[2]).expand_dims(1).expand_dims(1)
        x = ops.relu(self.first(features.expand_dims(2) * mask))
        lengths = (lengths - 1) // 2 + 1
        lengths = ops.maximum(lengths, 0)
        mask = frame_mask(lengths, x.shape[3])
        x = x * mask.expand_dims(1).expand_dims(1)
        return ops.relu(self.second(x)).squeeze(2), lengths, mask


# ---- an encoder-decoder


class EndedTokenizer(CharacterTokenizer):
    """Characters, and an end of text in the place of CTC's blank."""

    blank = None  # type: ignore[assignment]

    @property
    def end(self) -> int:
        return self.labels.index("_")


class EncoderDecoder(nn.Cell):
    """Each label looks for its place among the encoder's states by its number and the label before
    it (dot-product attention over states that carry their own numbers)."""

    most_labels = 12

    def __init__(self, model: ModelConfig, dimension: int, classes: int, rng, device: str):
        super().__init__()
        width = model.channels
        self.encoder = Encoder(dimension, width, rng)
        self.places = Parameter(drawn(rng, 400, width), name="places")
        self.numbers = Parameter(drawn(rng, self.most_labels + 1, width), name="numbers")
        self.embedding = Parameter(drawn(rng, classes + 1, width), name="embedding")
        self.hidden = nn.Dense(2 * width, width, weight_init=drawn(rng, width, 2 * width))
        self.out = nn.Dense(width, classes, weight_init=drawn(rng, classes, width))

    def states(self, features, lengths):
        x, _, mask = self.encoder(features, lengths)
        x = x.transpose((0, 2, 1))
        return x + self.places[: x.shape[1]].expand_dims(0), mask

    def spell(self, states, mask, previous):
        """previous (B, L): labels before each one, `classes` at the start -> logits (B, L, C)."""
        embedded = ops.gather(self.embedding, previous, 0)
        query = embedded + self.numbers[: previous.shape[1]].expand_dims(0)
        scores = ops.matmul(query, states.transpose((0, 2, 1)))
        scores = scores - 1e4 * (1 - mask).expand_dims(1)
        context = ops.matmul(ops.softmax(scores, -1), states)
        return self.out(ops.relu(self.hidden(ops.concat((context, query), -1))))


class CrossEntropy(nn.Cell):
    """Teacher forcing: the mean over a text's labels, and its end, of -log p."""

    def __init__(self, network: EncoderDecoder, end: int):
        super().__init__(auto_prefix=False)
        self.network, self.end = network, end

    def construct(self, features, lengths, targets, target_lengths):
        states, mask = self.network.states(features, lengths)
        start = ops.ones((targets.shape[0], 1), ms.int32) * (self.end + 1)
        logits = self.network.spell(states, mask, ops.concat((start, targets), 1))
        places = ops.arange(targets.shape[1] + 1).reshape((1, -1))
        counts = target_lengths.reshape((-1, 1))
        padded = ops.concat((targets, ops.zeros_like(start)), 1)
        wanted = ops.select(places < counts, padded, ops.ones_like(padded) * self.end)
        log_probs = ops.log_softmax(logits, -1)
        chosen = ops.gather_elements(log_probs, 2, wanted.expand_dims(2)).squeeze(2)
        inside = ops.cast(places <= counts, ms.float32)
        return -(chosen * inside).sum(1) / inside.sum(1)


class GreedySpelling(SpeechDecoder):
    """The likeliest label after the labels so far, until the end of the text."""

    def __init__(self, speech_model):
        self.network, self.tokenizer = speech_model.network, speech_model.tokenizer

    def decode(self, features, lengths, valid=None) -> list[DecodedUtterance]:
        self.network.set_train(False)
        states, mask = self.network.states(Tensor(features), Tensor(lengths.astype(np.int32)))
        end, rows = self.tokenizer.end, len(lengths)
        # In one shape, since operators are compiled for each; a label only looks at the one before.
        labels = np.full((rows, self.network.most_labels + 1), end + 1, np.int32)
        scores = np.zeros(rows)
        ended = np.zeros(rows, bool)
        for place in range(self.network.most_labels):
            logits = self.network.spell(states, mask, Tensor(labels)).asnumpy()[:, place]
            log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            labels[:, place + 1] = np.where(ended, end, log_probs.argmax(1))
            scores += np.where(ended, 0, log_probs.max(1))
            ended |= labels[:, place + 1] == end
        return [
            DecodedUtterance([Hypothesis(self._text(row), float(score))])
            for row, score in zip(labels[:valid, 1:], scores)
        ]

    def _text(self, row: np.ndarray) -> str:
        ids = row.tolist()
        ids = ids[: ids.index(self.tokenizer.end)] if self.tokenizer.end in ids else ids
        return " ".join(self.tokenizer.decode(ids).split())


def speller(folder: Path) -> Recipe:
    return Recipe(
        name="speller",
        folder=folder,
        train_config=TrainConfig,
        eval_config=shared.EvalConfig,
        build_network=EncoderDecoder,
        build_featurizer=featurizer,
        output_frames=lambda config, frames: half(frames),
        head="out",
        tokenizer=EndedTokenizer,
        build_objective=lambda network, tokenizer: CrossEntropy(network, tokenizer.end),
        build_decoder=lambda speech_model, decoding: GreedySpelling(speech_model),
        exportable=False,
    )


# ---- CTC over syllables

CHARACTERS = {"A": "中", "B": "国", "C": "人", "D": "大"}
SYLLABLES = {"中": "zhong1", "国": "guo2", "人": "ren2", "大": "da4"}


class SyllableTokenizer(Tokenizer):
    """Characters are trained on as syllables; what is scored stays characters."""

    def __init__(self, labels: Iterable[str], syllables: dict[str, str]):
        self.labels, self.syllables = tuple(labels), dict(syllables)
        self.blank = self.labels.index("_")

    @classmethod
    def from_file(cls, path: str | Path) -> SyllableTokenizer:
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> SyllableTokenizer:
        return cls(description["labels"], description["syllables"])

    def description(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "syllables": self.syllables}

    def normalise(self, text: str) -> str:
        return "".join(text.split())

    def unknown(self, text: str) -> set[str]:
        return set(text) - self.syllables.keys()

    def encode(self, text: str) -> list[int]:
        if unknown := self.unknown(text):
            raise UserError(f"text {text!r}: no syllable for {sorted(unknown)}")
        return [self.labels.index(self.syllables[character]) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.labels[index] for index in ids)

    def words(self, text: str) -> list[str]:
        return list(text)


class SyllableNetwork(nn.Cell):
    def __init__(self, model: ModelConfig, dimension: int, classes: int, rng, device: str):
        super().__init__()
        self.encoder = Encoder(dimension, model.channels, rng)
        weight = drawn(rng, classes, model.channels)
        self.out = nn.Dense(model.channels, classes, weight_init=weight)

    def construct(self, features, lengths):
        x, lengths, _ = self.encoder(features, lengths)
        return ops.log_softmax(self.out(x.transpose((2, 0, 1))), -1), lengths


class CharactersOfSyllables(SpeechDecoder):
    """Syllables by CTC, then a character for each: a dictionary stands for a second model."""

    def __init__(self, speech_model, decoding):
        self.syllables = ctc_decoder(speech_model, decoding)
        spoken = speech_model.tokenizer.syllables
        self.characters = {syllable: character for character, syllable in spoken.items()}

    def decode(self, features, lengths, valid=None) -> list[DecodedUtterance]:
        return [
            DecodedUtterance([self._written(h) for h in found.hypotheses], found.log_probs)
            for found in self.syllables.decode(features, lengths, valid)
        ]

    def _written(self, hypothesis: Hypothesis) -> Hypothesis:
        text = "".join(self.characters[syllable] for syllable in hypothesis.text.split())
        return hypothesis._replace(text=text)


def syllables(folder: Path) -> Recipe:
    return Recipe(
        name="syllables",
        folder=folder,
        train_config=TrainConfig,
        eval_config=shared.EvalConfig,
        build_network=SyllableNetwork,
        build_featurizer=featurizer,
        output_frames=lambda config, frames: half(frames),
        head="out",
        tokenizer=SyllableTokenizer,
        build_decoder=CharactersOfSyllables,
    )


# ---- the same way for both: manifest, MindRecord, train, resume, evaluate, transcribe, export

OPTIONS = ["train_manifest=train.csv", "val_manifest=val.csv", "test_manifest=test.csv"]
OPTIONS += ["batch_size=4", "learning_rate=0.01", "eval_every=30"]


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Path:
    make_corpus(tmp_path, train=16)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logging.getLogger("speech").handlers.clear()


def weights(name: str = "last") -> dict[str, np.ndarray]:
    return checkpoints.load(f"checkpoint/model-{name}.ckpt").parameters


def train_and_resume(recipe: Recipe, epochs: int) -> None:
    """Train in one go, then in two: the weights are the same to the last bit. Then to the end."""
    options = ["--set", *OPTIONS]
    cli.create_mindrecord(recipe, options)
    cli.train(recipe, [*options, "epochs=4"])
    whole = weights()
    cli.train(recipe, [*options, "epochs=2"])
    cli.train(recipe, ["--resume", "--set", "epochs=4"])
    for name, value in weights().items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    cli.train(recipe, ["--resume", "--set", f"epochs={epochs}"])


def error_rates(recipe: Recipe, capsys) -> tuple[float, float]:
    capsys.readouterr()
    cli.evaluate(recipe, ["--pretrain_ckpt", "checkpoint/model-best.ckpt"])
    summary = capsys.readouterr().out.splitlines()[-1].split()
    return float(summary[4]), float(summary[7])


def test_an_encoder_decoder_trains_resumes_evaluates_and_transcribes(cpu, corpus, capsys):
    recipe = speller(corpus)
    train_and_resume(recipe, epochs=30)
    losses = [line.split(",") for line in Path("metrics.csv").read_text().splitlines()]
    place = losses[0].index("train_loss")
    assert float(losses[-1][place]) < 0.5 * float(losses[1][place])
    _, cer = error_rates(recipe, capsys)
    assert cer < 90  # sixteen utterances are few for attention
    code = cli.transcribe(
        recipe, ["test/test0.wav", "--pretrain_ckpt", "checkpoint/model-best.ckpt"]
    )
    text = capsys.readouterr().out.splitlines()[-1]
    assert code == 0
    assert text == spelled_in_numpy("test/test0.wav")
    with pytest.raises(UserError, match="speller cannot be exported"):
        cli.export(recipe, ["--pre_trained_model_path", "checkpoint/model-best.ckpt"])


def spelled_in_numpy(path: str) -> str:
    """The text that the checkpoint's weights spell, without MindSpore."""
    from common.audio.io import load_audio

    w = weights("best")

    def convolved(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (3, 3)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=1)[:, ::stride]
        return np.maximum(np.einsum("itk,oik->ot", windows, weight[:, :, 0]), 0)

    features = featurizer(shared.DataConfig())(load_audio(path, RATE))
    x = convolved(features, w["encoder.first.weight"], 2)
    states = convolved(x, w["encoder.second.weight"], 1).T
    states = states + w["places"][: len(states)]
    labels = ["A", "B", "C", "D", " ", "_"]
    spelled, previous = [], len(labels)
    for number in range(EncoderDecoder.most_labels):
        query = w["embedding"][previous] + w["numbers"][number]
        attention = np.exp(states @ query - (states @ query).max())
        context = attention @ states / attention.sum()
        hidden = w["hidden.weight"] @ np.concatenate((context, query)) + w["hidden.bias"]
        previous = int((w["out.weight"] @ np.maximum(hidden, 0) + w["out.bias"]).argmax())
        if labels[previous] == "_":
            break
        spelled.append(labels[previous])
    return " ".join("".join(spelled).split())


def test_syllables_are_trained_on_and_characters_are_scored(cpu, corpus, capsys):
    recipe = syllables(corpus)
    labels = [*SYLLABLES.values(), "_"]
    described = {"labels": labels, "syllables": SYLLABLES}
    Path("labels.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    for name in ("train", "val", "test"):
        manifest = Path(f"{name}.csv")
        lines = [line.rsplit(",", 1) for line in manifest.read_text().splitlines()]
        table = str.maketrans(CHARACTERS | {" ": None})
        lines = [f"{audio},{text.translate(table)}" for audio, text in lines]
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")

    train_and_resume(recipe, epochs=24)
    wer, cer = error_rates(recipe, capsys)
    assert wer == cer < 50  # 100 where nothing is heard
    metadata = checkpoints.load("checkpoint/model-best.ckpt").metadata
    assert metadata["tokenizer"]["syllables"] == SYLLABLES

    code = cli.transcribe(
        recipe, ["test/test0.wav", "--pretrain_ckpt", "checkpoint/model-best.ckpt"]
    )
    text = capsys.readouterr().out.splitlines()[-1]
    assert code == 0

    cli.export(recipe, ["--pre_trained_model_path", "checkpoint/model-best.ckpt"])
    description = json.loads(Path("syllables.json").read_text(encoding="utf-8"))
    assert description["tokenizer"]["syllables"] == SYLLABLES
    assert description["verified_difference"] < 1e-4
    functions = ModelFunctions(recipe)
    spoken = functions.load("checkpoint/model-best.ckpt", device=cpu).transcribe("test/test0.wav")
    written = functions.load("syllables.mindir").transcribe("test/test0.wav")
    assert text == spoken.text == written.text
    assert [word.word for word in spoken.words] == list(text)
    with pytest.raises(UserError, match="a decoder of its own"):
        cli.postprocess(recipe, ["--mindir_path", "syllables.mindir"])
