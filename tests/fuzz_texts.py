"""Damaged manifests, configurations, labels, rank tables and language models.

Beside what every reader owes (fuzz_runner.py): a manifest loses no line without a word, and what
was read of it is the same after it was written in another format; values that a configuration
accepts are such that features and the network's output lengths can be computed.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fuzz_mutations import Rng, change_tree, damage_bytes, damage_json, damage_text
from fuzz_runner import Finding, Seed, Target
from synthetic_lm import write_arpa
from test_original_yaml import MINDSPORE

from common import config as configs
from common.data import manifest_writers as writers
from common.data.manifest import read_manifest
from common.decoding.ngram_lm import WordModel
from common.launching.make_rank_table import make_table, this_host
from common.launching.rank_table import place, read_rank_table
from common.text.tokenizer import CharacterTokenizer, labels_of
from common.utils.errors import UserError
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src.recipe import RECIPE as JASPER

ROOT = Path(__file__).resolve().parents[1]


def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _damage(rng: Rng, seeds: list[Seed], folder: Path) -> Path:
    """A JSON seed's values or its text, another seed's text, become a file of its name."""
    seed, other = _pick(rng, seeds), _pick(rng, seeds)
    if seed.tree is not None and rng.random() < 0.6:
        data = damage_json(rng, seed.tree, lines=seed.name.endswith(".jsonl"))
    else:
        data = damage_text(rng, seed.data.decode(), other.data.decode())
    path = folder / seed.name
    path.write_bytes(data)
    return path


def _json(name: str, tree: Any) -> Seed:
    return Seed(name, json.dumps(tree, ensure_ascii=False, indent=1).encode(), tree)


# ---- manifests

_TEXTS = ["ONE TWO", "", "a, b", 'he said "no"', "Ünïcödé ß", "中文", "GO  ON", "it's"]


def _manifests(folder: Path) -> list[Seed]:
    """Each format; the transcripts of some are files beside the manifest."""
    (folder / "txt").mkdir(exist_ok=True)
    for number, text in enumerate(_TEXTS):
        (folder / "txt" / f"{number}.txt").write_text(text, encoding="utf-8")
    quoted = ['"' + text.replace('"', '""') + '"' for text in _TEXTS]
    rows = [f"wav/{number}.wav,{text}" for number, text in enumerate(quoted)]
    files = [f"wav/{number}.wav,../txt/{number}.txt" for number in range(len(_TEXTS))]
    table = [f"{row},{number}.5" for number, row in enumerate(rows)]
    samples = [
        {"wav_path": f"wav/{number}.wav", "transcript_path": f"../txt/{number}.txt"}
        for number in range(len(_TEXTS))
    ]
    lines = [
        {"audio": f"wav/{number}.wav", "text": text, "duration": 1.5 + number}
        for number, text in enumerate(_TEXTS)
    ]
    segments = [
        {"audio_filepath": "wav/long.wav", "text": text, "offset": 2.0 * number, "duration": 1.5}
        for number, text in enumerate(_TEXTS)
    ]
    copies = [
        {
            "transcript": text,
            "files": [
                {"fname": f"wav/{number}-{speed}.wav", "duration": 2 / speed, "speed": speed}
                for speed in (1.0, 0.9, 1.1)
            ],
            "original_duration": 2.0,
        }
        for number, text in enumerate(_TEXTS)
    ]
    return [
        Seed("plain.csv", "\n".join(rows).encode()),
        Seed("header.csv", "\n".join(["audio,transcript", *rows, ""]).encode()),
        Seed("files.csv", "\n".join(files).encode()),
        Seed("table.csv", "\n".join(["audio,text,duration", *table]).encode()),
        _json("deepspeech.json", {"root_path": ".", "samples": samples}),
        _json("jasper.json", copies),
        Seed("lines.jsonl", "\n".join(map(json.dumps, lines)).encode(), lines),
        Seed("segments.jsonl", "\n".join(map(json.dumps, segments)).encode(), segments),
    ]


def _read_manifest(path: Path, seeds: list[Seed]) -> str:
    utterances = read_manifest(path)
    _check_lines(path, len(utterances))
    labels_of(utterance.text for utterance in utterances)
    kept = path.with_name("kept.jsonl")
    writers.write_jsonl(utterances, kept)
    # The copies of an utterance stand behind it in what is written, wherever they stood before.
    if sorted(map(str, read_manifest(kept))) != sorted(map(str, utterances)):
        raise Finding("the utterances are others after they were written as JSON lines")
    with suppress(UserError):  # it holds no copies and no segments
        writers.write_csv(utterances, path.with_name("kept.csv"))
        rows = len(read_manifest(path.with_name("kept.csv")))
        if rows != len(utterances):
            raise Finding(f"{rows} of {len(utterances)} utterances after they were written as CSV")
    return "read"


def _check_lines(path: Path, utterances: int) -> None:
    """A line of a CSV file or of JSON lines that holds anything is an utterance, or a header."""
    with suppress(UnicodeDecodeError):
        text = path.read_text(encoding="utf-8-sig")
        start = text.lstrip()[:1]
        if path.suffix != ".csv" and (start == "[" or '"samples"' in text):
            return
        lines = re.split(r"\r\n|\r|\n", text)
        filled = sum(bool(line.strip(' \t,"\x00\ufeff')) for line in lines)
        if utterances < filled - 1:
            raise Finding(f"lines lost: {utterances} utterances of {filled} lines")


# ---- configurations


def _yaml_files(folder: Path) -> list[Seed]:
    seeds = [Seed("original.yaml", MINDSPORE.encode())]
    for recipe in (DEEPSPEECH2, JASPER):
        for name in recipe.presets():
            seeds.append(Seed(f"{recipe.name}-{name}.yaml", recipe.preset(name).read_bytes()))
        for name in ("train_config", "eval_config", "infer_config"):
            values = configs.to_dict(getattr(recipe, name)())
            # YAML knows no tuples.
            text = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False)
            seeds.append(Seed(f"{recipe.name}-{name}.yaml", text.encode()))
    return seeds


def _damage_yaml(rng: Rng, seeds: list[Seed], folder: Path) -> Path:
    """Values of a file or its text; sometimes a line of it is given by --set instead."""
    seed, other = _pick(rng, seeds), _pick(rng, seeds)
    if rng.random() < 0.4:
        tree = change_tree(rng, yaml.safe_load(seed.data))
        data = yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    else:
        data = damage_text(rng, seed.data.decode(), other.data.decode())
    path = folder / seed.name
    path.write_bytes(data)
    return path


def _read_yaml(path: Path, seeds: list[Seed]) -> str:
    recipe = JASPER if path.name.startswith(("jasper", "original")) else DEEPSPEECH2
    kind = next((name for name in ("eval_config", "infer_config") if name in path.name), None)
    config = getattr(recipe, kind or "train_config")()
    if kind:
        configs.override_from_yaml(config, path)
    else:
        configs.override_from_yaml(config, path, recipe.translate_yaml)
    configs.check(config)
    if not kind:
        featurizer = recipe.build_featurizer(config.DataConfig)
        featurizer(np.zeros(featurizer.config.sample_rate // 2 + 1000, np.float32))
        recipe.output_frames(config.ModelConfig, 1000)
    _set_lines(config, path)
    return "read"


def _set_lines(config: Any, path: Path) -> None:
    """Give the file's lines as --set does: each is taken or refused."""
    for line in path.read_text(encoding="utf-8-sig").splitlines()[:50]:
        with suppress(UserError):
            configs.override_from_options(config, [line.replace(":", "=", 1)])


# ---- labels


def _labels(folder: Path) -> list[Seed]:
    lists = {
        "latin": [*"ABC' ", "_"],
        "turkish": ["_", *"abcçıiİI "],
        "syllables": ["_", "中", "文"],
    }
    return [_json(f"{name}.json", labels) for name, labels in lists.items()]


def _read_labels(path: Path, seeds: list[Seed]) -> str:
    tokenizer = CharacterTokenizer.from_file(path)
    for text in _TEXTS:
        normalised = tokenizer.normalise(text)
        if not tokenizer.unknown(normalised):
            ids = tokenizer.encode(normalised)
            if tokenizer.decode(ids) != normalised:
                raise Finding(f"{normalised!r} is spelled as {tokenizer.decode(ids)!r}")
    json.dumps(tokenizer.description(), ensure_ascii=False).encode()
    return "read"


# ---- rank tables


def _rank_tables(folder: Path) -> list[Seed]:
    cards = [[(n, f"192.168.{n}.{host}") for n in range(4)] for host in (1, 2)]
    one, two = make_table([("10.0.0.1", cards[0])]), make_table(list(zip("ab", cards)))
    pod = {**two, "version": "1.2", "super_pod_list": [{"super_pod_id": "0", "server_list": []}]}
    conf = "".join(f"address_{n}=192.168.{n}.1\nnetmask_{n}=255.255.0.0\n" for n in range(4))
    return [*map(_json, ("one.json", "two.json", "pod.json"), (one, two, pod))] + [
        Seed("hccn.conf", conf.encode())
    ]


def _read_rank_table(path: Path, seeds: list[Seed]) -> str:
    if path.suffix == ".conf":
        cards = this_host(None, str(path))
        numbers = [number for number, _ in cards]
        if sorted(set(numbers)) != numbers:
            raise Finding(f"cards {numbers}")
        return "read"
    servers = read_rank_table(path)
    size = sum(len(server.devices) for server in servers)
    part = place(servers, str(path), size, 0, node=0)
    ranks = sorted(device.rank for server in servers for device in server.devices)
    if ranks != list(range(size)) or part.size != size:
        raise Finding(f"ranks {ranks} of {size}")
    return "read"


# ---- language models


def _arpa_files(folder: Path) -> list[Seed]:
    text = write_arpa(folder / "model.arpa").read_bytes()
    return [
        Seed("model.arpa", text),
        Seed("model.arpa.gz", gzip.compress(text, mtime=0)),
        Seed("model.arpa.bz2", bz2.compress(text)),
        Seed("model.arpa.xz", lzma.compress(text)),
    ]


def _damage_arpa(rng: Rng, seeds: list[Seed], folder: Path) -> Path:
    """The text, as it is or compressed; or the bytes of a compressed file."""
    seed = _pick(rng, seeds)
    path = folder / seed.name
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix)
    if pack is None or rng.random() < 0.4:
        text = damage_text(rng, seeds[0].data.decode(), seeds[0].data.decode())
        path.write_bytes(pack(text) if pack else text)
    else:
        path.write_bytes(damage_bytes(rng, seed.data, seeds[0].data))
    return path


def _read_arpa(path: Path, seeds: list[Seed]) -> str:
    tokenizer = CharacterTokenizer(("A", "B", " ", "_"))
    model = WordModel(path, tokenizer, 0.8, 0.5, -10.0)
    score, history = model.score(model.start(), "A")
    further, _ = model.score(history, "never")
    rows = model.lookahead.after(np.array([model.lookahead.row("A")]))
    # A word may have the probability 0.
    if np.isnan([score, further]).any() or max(score, further) == np.inf or np.isnan(rows).any():
        raise Finding(f"scores that are no numbers: {score}, {further}")
    return "read"


# A message that names a key of the configuration.
_KEYS = r"Config\.|--set|^\w+=\S+: |^(features|window|bands|convention|pre|frame_|sample_rate)"
TARGETS = (
    Target("manifest", 24_000, _manifests, _damage, _read_manifest),
    Target("yaml", 16_000, _yaml_files, _damage_yaml, _read_yaml, names=_KEYS),
    Target("labels", 8_000, _labels, _damage, _read_labels),
    Target("rank_table", 12_000, _rank_tables, _damage, _read_rank_table),
    Target("arpa", 10_000, _arpa_files, _damage_arpa, _read_arpa),
)
