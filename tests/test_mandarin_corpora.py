"""Mandarin corpora: their layouts, ASRT's lists, and their download from a server on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Server

from common.cli import openslr as openslr_cli
from common.cli.manifest import main as manifest_command
from common.data import openslr
from common.data.corpora import build_asrt, build_corpora
from common.data.corpus_layouts import READERS, read_corpus
from common.data.manifest import read_manifest
from common.data.openslr import RESOURCES, fetch_corpus
from common.utils.errors import UserError


def put(root: Path, files: dict[str, str]) -> Path:
    """Write files; what they hold is not looked at where they are recordings."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def told(corpus) -> dict[str, list[tuple[str, str, str]]]:
    return {part: [(u.id, u.text, u.speaker) for u in us] for part, us in corpus.sets.items() if us}


def missing(corpus) -> list[tuple[str, str]]:
    return [(each.id, each.reason) for each in corpus.left_out]


AISHELL1 = {
    "transcript/aishell_transcript_v0.8.txt": "BAC009S0002W0122 而 对 楼市\n"
    "BAC009S0724W0121 广州 市\nBAC009S0764W0121 甚至\nBAC009S0002W0999 没有 录音\n",
    "wav/train/S0002/BAC009S0002W0122.wav": "",
    "wav/train/S0002/BAC009S0002W0123.wav": "",
    "wav/dev/S0724/BAC009S0724W0121.wav": "",
    "wav/test/S0764/BAC009S0764W0121.wav": "",
}
THCHS30 = {
    "train/A11_0.wav": "",
    "train/A11_0.wav.trn": "../data/A11_0.wav.trn\n",
    "train/A11_1.wav.trn": "../data/A11_1.wav.trn",
    "train/A12_5.wav.trn": "../data/A12_5.wav.trn",
    "data/A11_0.wav.trn": "绿 是 阳春\nlv4 shi4 yang2 chun1\nl v4\n",
    "data/A11_1.wav": "",
    "data/A11_1.wav.trn": "他 仅 凭\nta1 jin3 ping2\n",
    "dev/A12_2.wav": "",
    "dev/A12_2.wav.trn": "可 谁 知\nke3 shei2 zhi1\n",
    "dev/A12_3.wav": "",
    "test/D4_750.wav.trn": "东北 军\n",
    "test/D4_751.wav": "",
    "test/D4_751.wav.trn": "王 英 汉\n",
}
MAGICDATA = {
    "train/TRANS.txt": "UtteranceID\tSpeakerID\tTranscription\n"
    "38_5716_20170914202211.wav\t38_5716\t你好，[FIL] 世界\n"
    "38_5716_20170914202212.wav\t38_5716\t[FIL]\n",
    "train/38_5716/38_5716_20170914202211.wav": "",
    "train/38_5716/38_5716_20170914202212.wav": "",
    "dev/TRANS.txt": "UtteranceID\tSpeakerID\tTranscription\na.wav\ts\t再见\n",
    "dev/s/a.wav": "",
}
AISHELL3 = {f"train/wav/SSB000{n}/SSB000{n}0001.wav": "" for n in range(6)} | {
    "train/content.txt": "".join(
        f"SSB000{n}0001.wav\t广 guang3 州 zhou1 儿 r5 A a1\n" for n in range(6)
    ),
    "test/content.txt": "SSB06060001.wav\t你 ni3 好 hao3\n",
    "test/wav/SSB0606/SSB06060001.wav": "",
}
PRIMEWORDS_ROWS = [
    {
        "id": str(n),
        "file": f"{n:02x}a1.wav",
        "user_id": f"u{n % 40}",
        "length": "1",
        "text": "你 好",
    }
    for n in range(80)
]
PRIMEWORDS = {
    "set1_transcript.json": json.dumps([*PRIMEWORDS_ROWS, PRIMEWORDS_ROWS[3]]),
} | {f"audio_files/{r['file'][0]}/{r['file'][:2]}/{r['file']}": "" for r in PRIMEWORDS_ROWS}
STCMDS = {
    f"20170001P{n:05d}{kind}000{i}.{end}": "没钱"  # wav or txt
    for n in range(10)
    for kind in "AI"
    for i in (1, 2)
    for end in ("wav", "txt", "metadata")
}
COLUMNS = "client_id\tpath\tsentence\tup_votes\n"
COMMON_VOICE = {
    "train.tsv": COLUMNS
    + 'c1\tcv_1.mp3\t"引号 在前\t2\nc2\tcv_2\t你好\t3\nc2\tcv_9.mp3\t没有\t1\n',
    "dev.tsv": COLUMNS + "c3\tcv_3.mp3\t\t2\nc3\tcv_4.mp3\t好\t2\n",
    "test.tsv": COLUMNS + "c4\tcv_5.mp3\t大家\t2\n",
    "validated.tsv": COLUMNS,
    "clips/cv_1.mp3": "",
    "clips/cv_2.mp3": "",
    "clips/cv_3.mp3": "",
    "clips/cv_4.mp3": "",
    "clips/cv_5.mp3": "",
}


@pytest.mark.parametrize("folder", ["", "data_aishell"])
def test_aishell1(tmp_path, folder):
    put(tmp_path / folder, AISHELL1)
    corpus = read_corpus("aishell1", tmp_path)
    assert told(corpus) == {
        "train": [("BAC009S0002W0122", "而 对 楼市", "S0002")],
        "val": [("BAC009S0724W0121", "广州 市", "S0724")],
        "test": [("BAC009S0764W0121", "甚至", "S0764")],
    }
    assert corpus.sets["test"][0].audio == (
        tmp_path / folder / "wav/test/S0764/BAC009S0764W0121.wav"
    )
    assert missing(corpus) == [
        ("BAC009S0002W0999", "no recording"),
        ("BAC009S0002W0123", "no transcript"),
    ]


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_the_speakers_of_aishell1_are_unpacked(tmp_path):
    put(tmp_path, AISHELL1)
    for speaker in ("S0002", "S0003"):
        name = f"train/{speaker}/BAC009{speaker}W0122.wav"
        (tmp_path / f"wav/{speaker}.tar.gz").write_bytes(tar({name: b"", "train/x": b""}))
    with open(tmp_path / "transcript/aishell_transcript_v0.8.txt", "a") as file:
        file.write("BAC009S0003W0122 也 是\n")
    (corpus, again) = (read_corpus("aishell1", tmp_path) for _ in range(2))
    assert [u.id for u in corpus.sets["train"]] == ["BAC009S0002W0122", "BAC009S0003W0122"]
    assert told(again) == told(corpus)
    assert not list(tmp_path.rglob(".unpacking*"))


def test_thchs30(tmp_path):
    put(tmp_path / "data_thchs30", THCHS30)
    corpus = read_corpus("thchs30", tmp_path)
    assert told(corpus) == {
        "train": [("A11_0", "绿 是 阳春", "A11"), ("A11_1", "他 仅 凭", "A11")],
        "val": [("A12_2", "可 谁 知", "A12")],
        "test": [("D4_751", "王 英 汉", "D4")],
    }
    assert corpus.sets["train"][1].audio.parent.name == "data"
    assert missing(corpus) == [
        ("A12_5", "no transcript"),
        ("A12_3", "no transcript"),
        ("D4_750", "no recording"),
    ]
    assert "A12_5.wav.trn: cannot be read" in corpus.notes[0]


def test_magicdata(tmp_path):
    corpus = read_corpus("magicdata", put(tmp_path / "magicdata", MAGICDATA).parent)
    assert told(corpus) == {
        "train": [("38_5716_20170914202211", "你好， 世界", "38_5716")],
        "val": [("a", "再见", "s")],
    }
    assert missing(corpus) == [("38_5716_20170914202212", "no transcript")]


def test_aishell3_sets_training_speakers_aside(tmp_path):
    corpus = read_corpus("aishell3", put(tmp_path, AISHELL3))
    assert [len(corpus.sets[part]) for part in ("train", "val", "test")] == [5, 1, 1]
    assert {u.text for u in corpus.sets["train"]} == {"广州儿A"}
    assert told(corpus)["test"] == [("SSB06060001", "你好", "SSB0606")]
    first = min((f"SSB000{n}" for n in range(6)), key=lambda s: hashlib.md5(s.encode()).hexdigest())
    assert corpus.sets["val"][0].speaker == first


@pytest.mark.parametrize(
    "name, files, speakers", [("primewords", PRIMEWORDS, 40), ("stcmds", STCMDS, 10)]
)
def test_corpora_without_sets_are_split_by_speaker(tmp_path, name, files, speakers):
    corpus = read_corpus(name, put(tmp_path, files))
    found = {part: {u.speaker for u in us} for part, us in corpus.sets.items()}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == speakers
    assert len(found["val"]) == len(found["test"]) == max(1, speakers // 20)
    assert found == {
        part: {u.speaker for u in us} for part, us in read_corpus(name, tmp_path).sets.items()
    }
    texts = {u.text for us in corpus.sets.values() for u in us}
    assert texts == ({"你 好"} if name == "primewords" else {"没钱"})
    assert missing(corpus) == ([("03a1", "listed again")] if name == "primewords" else [])


def test_few_speakers_stay_in_train(tmp_path):
    few = {name: text for name, text in STCMDS.items() if name[:15] < "20170001P00002A"}
    corpus = read_corpus("stcmds", put(tmp_path, few))
    assert len(corpus.sets["train"]) == 8 and not corpus.sets["val"]
    assert corpus.notes == [
        "stcmds: 2 speakers, too few to set some aside: all utterances are in train"
    ]


@pytest.mark.parametrize("folder", ["", "zh-CN"])
def test_common_voice(tmp_path, folder):
    put(tmp_path / folder, COMMON_VOICE)
    corpus = read_corpus("commonvoice", tmp_path)
    assert told(corpus) == {
        "train": [("cv_1", '"引号 在前', "c1"), ("cv_2", "你好", "c2")],
        "val": [("cv_4", "好", "c3")],
        "test": [("cv_5", "大家", "c4")],
    }
    assert missing(corpus) == [("cv_9", "no recording"), ("cv_3", "no transcript")]


def test_common_voice_of_several_languages_is_refused(tmp_path):
    for language in ("de", "zh-TW"):
        put(tmp_path / language, COMMON_VOICE)
    with pytest.raises(UserError, match="several languages, name the folder of one: de, zh-TW"):
        read_corpus("commonvoice", tmp_path)
    put(tmp_path / "x", {"train.tsv": "path\tsentence\n"})
    with pytest.raises(UserError, match="train.tsv: no column client_id"):
        read_corpus("commonvoice", tmp_path / "x")


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_there_or_empty_is_said(tmp_path, name):
    with pytest.raises(UserError, match=rf"no {name} found, expected a folder that holds"):
        read_corpus(name, tmp_path)


def test_a_corpus_without_a_recording_is_refused(tmp_path):
    put(tmp_path, {name: text for name, text in AISHELL1.items() if name.startswith("tran")})
    with pytest.raises(
        UserError, match=r"no utterance with both.*4 left out; the first: BAC009S0002"
    ):
        read_corpus("aishell1", tmp_path)
    put(tmp_path, {"set1_transcript.json": '[{"file": "a.wav"}]'})
    with pytest.raises(UserError, match="set1_transcript.json: not as published .*user_id"):
        read_corpus("primewords", tmp_path)


# ---- manifests


def test_several_corpora_at_once(tmp_path, capsys):
    put(tmp_path / "a", AISHELL1)
    put(tmp_path / "t", THCHS30)
    out = tmp_path / "out"
    sources = [f"aishell1={tmp_path}/a", f"thchs30={tmp_path}/t", f"stcmds={tmp_path}/gone"]
    assert manifest_command(["corpora", *sources, str(out), "--name", "zh"]) == 0
    names = [
        f"{n}_{p}_manifest.jsonl"
        for n in ("aishell1", "thchs30", "zh")
        for p in ("train", "val", "test")
    ]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "left_out.tsv"])
    joint = read_manifest(out / "zh_train_manifest.jsonl")
    assert [(u.id, u.speaker) for u in joint] == [
        ("BAC009S0002W0122", "S0002"),
        ("A11_0", "A11"),
        ("A11_1", "A11"),
    ]
    rows = [line.split("\t") for line in (out / "left_out.tsv").read_text().splitlines()]
    assert [row[:3] for row in rows[1:]] == [
        ["aishell1", "BAC009S0002W0999", "no recording"],
        ["aishell1", "BAC009S0002W0123", "no transcript"],
        ["thchs30", "A12_5", "no transcript"],
        ["thchs30", "A12_3", "no transcript"],
        ["thchs30", "D4_750", "no recording"],
    ]
    said = capsys.readouterr()
    assert f"{tmp_path}/gone: no stcmds found" in said.err and "the others go on" in said.err
    assert (
        "aishell1: 2 utterances left out beside 3: no recording: 1, the first BAC009S0002W0999"
        in said.err
    )
    assert f"{out}/zh_train_manifest.jsonl: 3 utterances" in said.out
    build_corpora([("thchs30", tmp_path / "t")], tmp_path / "one")
    assert not list((tmp_path / "one").glob("all*"))


def test_corpus_in_two_folders_is_one(tmp_path):
    put(tmp_path / "a", THCHS30)
    others = {k.replace("A11", "A21"): v.replace("A11", "A21") for k, v in THCHS30.items()}
    put(tmp_path / "b", others)
    sources = [("thchs30", tmp_path / "a"), ("thchs30", tmp_path / "b")]
    build_corpora(sources, tmp_path / "out")
    found = read_manifest(tmp_path / "out" / "thchs30_train_manifest.jsonl")
    assert {u.speaker for u in found} >= {"A11", "A21"}
    with pytest.raises(UserError, match="--name thchs30: one of the corpora is called that"):
        build_corpora(sources, tmp_path / "out", name="thchs30")


def test_wrong_names_are_refused(tmp_path, capsys):
    for source, message in {
        "aishell9=x": "corpus aishell9: expected one of aishell1, ",
        "aishell1": "aishell1: expected NAME=DIR",
        "thchs30=/gone": "/gone: no thchs30 found",
    }.items():
        assert manifest_command(["corpora", source, str(tmp_path)]) == 1
        assert message in capsys.readouterr().err


def test_labels_are_those_of_normalised_texts(tmp_path, capsys):
    pytest.importorskip("opencc", reason="pip install -r requirements-mandarin.txt")
    lines = [
        {"audio": f"{n}.wav", "text": text}
        for n, text in enumerate(["漢字，2 個", "汉字 两", "8:30"])
    ]
    path = put(tmp_path, {"m.jsonl": "\n".join(map(json.dumps, lines))}) / "m.jsonl"
    out = tmp_path / "labels_zh.json"
    assert manifest_command(["labels", str(path), str(out), "--normalize", "mandarin"]) == 0
    assert json.loads(out.read_text()) == [*sorted("汉字两个八三十"), "_"]
    assert "no label for :, which can be read in several ways" in capsys.readouterr().err
    options = ["--normalize", "mandarin", "--min_count", "2"]
    assert manifest_command(["labels", str(path), str(out), *options]) == 0
    assert json.loads(out.read_text()) == [*sorted("汉字两"), "_"]
    assert (
        "5 characters of fewer than 2 occurrences get no label; 2 of 3 utt"
        in capsys.readouterr().err
    )


# ---- ASRT's lists


def asrt(tmp_path: Path) -> Path:
    entries = {
        part: [
            {
                "name": f"{corpus}_{part}",
                "data_list": f"datalist/{corpus}/{part}.wav.lst",
                "data_path": "/data/speech_data",
                "label_list": f"datalist/{corpus}/{part}.syllable.txt",
            }
            for corpus in ("thchs30", "st-cmds", "primewords")
        ]
        for part in ("train", "dev", "test")
    }
    put(tmp_path, {"asrt_config.json": json.dumps({"dict_filename": "d", "dataset": entries})})
    for part in entries:  # trailing spaces and an empty line, as published
        files = {
            f"datalist/thchs30/{part}.wav.lst": "A1_0 data_thchs30/A1_0.wav\n"
            "A1_1 data_thchs30/A1_1.wav\nA1_2 data_thchs30/A1_2.wav\n\n",
            f"datalist/thchs30/{part}.syllable.txt": "A1_0 lv4 shi4 \nA1_1 ta1\nA1_3 wo3\n",
            f"datalist/st-cmds/{part}.wav.lst": "2017 ST-CMDS/2017.wav\n",
            f"datalist/st-cmds/{part}.syllable.txt": "2017 mei2\n",
        }
        put(tmp_path, files)
    put(tmp_path / "speech/data_thchs30", {"A1_0.wav": "", "A1_2.wav": ""})
    return tmp_path / "asrt_config.json"


def test_asrt_lists_of_one_corpus_among_several(tmp_path):
    said: list[str] = []
    counts = build_asrt(asrt(tmp_path), tmp_path / "out", tmp_path / "speech", said.append)
    assert {path.name: count for path, count in counts.items()} == {
        f"asrt_{part}_manifest.jsonl": 1 for part in ("train", "val", "test")
    }
    (utterance,) = read_manifest(tmp_path / "out/asrt_val_manifest.jsonl")
    assert (utterance.text, utterance.audio) == (
        "lv4 shi4",
        tmp_path / "speech/data_thchs30/A1_0.wav",
    )
    assert len(said) == 9
    assert said[0].startswith(
        "thchs30_train: 3 utterances left out beside 1: no recording: 2, the first A1_1"
    )
    lists = tmp_path / "datalist"
    assert said[1] == (
        f"st-cmds_train: left out, none of the 1 recordings of {lists}/st-cmds/train.wav.lst is in "
        f"{tmp_path}/speech"
    )
    assert said[2] == (
        f"primewords_train: left out, its list {lists}/primewords/train.wav.lst is not there"
    )
    rows = (tmp_path / "out/left_out.tsv").read_text().splitlines()
    assert [row.split("\t")[1:3] for row in rows[1:4]] == [
        ["A1_1", "no recording"],
        ["A1_2", "no transcript"],
        ["A1_3", "no recording"],
    ]


def test_asrt_lists_without_any_corpus_are_refused(tmp_path):
    config = asrt(tmp_path)
    with pytest.raises(
        UserError, match="none of its corpora is there: thchs30_train: .*--data_path"
    ):
        build_asrt(config, tmp_path / "out")
    for content in ("[]", '{"dataset": {"train": [{"name": 1}]}}', "{", '{"dataset": 3}'):
        config.write_text(content)
        with pytest.raises(UserError, match="asrt_config.json: no configuration of ASRT"):
            build_asrt(config, tmp_path / "out")


# ---- download


@pytest.fixture
def small(monkeypatch, server: Server) -> Server:
    """The archives of three corpora in small, at the server."""
    wav = tar({"train/S0002/BAC009S0002W0122.wav": b"", "train/S0002/BAC009S0002W0123.wav": b""})
    contents = {
        "aishell1": tar(
            {f"data_aishell/{n}": t.encode() for n, t in AISHELL1.items() if "S0002" not in n}
            | {"data_aishell/wav/S0002.tar.gz": wav}
        ),
        "thchs30": tar({f"data_thchs30/{n}": t.encode() for n, t in THCHS30.items()}),
        "aishell3": tar({n: t.encode() for n, t in AISHELL3.items()}),
    }
    for name, content in contents.items():
        resource = RESOURCES[name]
        (archive,) = resource.archives
        server.files[f"{resource.number}/{archive.file}"] = content
        md5 = hashlib.md5(content).hexdigest() if archive.md5 else None
        archive = replace(archive, md5=md5, size=len(content))
        monkeypatch.setitem(openslr.RESOURCES, name, replace(resource, archives=(archive,)))
    return server


def test_corpora_are_downloaded_unpacked_and_read(small, tmp_path, capsys):
    small.cut = [100]  # bytes of the first answer
    root = tmp_path / "corpora"
    names = ["aishell1", "thchs30", "aishell3"]
    options = ["--mirror", small.url, "--remove_archives"]
    assert openslr_cli.main([*names, str(root), *options]) == 0
    said = capsys.readouterr().out
    assert "aishell1: openslr.org/33, Apache 2.0" in said
    assert small.asked[:2] == ["", "bytes=100-"]
    assert sorted(path.name for path in root.iterdir()) == [
        "data_aishell",
        "data_aishell3",
        "data_thchs30",
    ]
    sizes = {n: sum(map(len, read_corpus(n, root).sets.values())) for n in names}
    assert sizes == {"aishell1": 3, "thchs30": 4, "aishell3": 7}
    small.asked.clear()
    assert openslr_cli.main([*names, str(root), *options]) == 0
    assert small.asked == []


def test_an_archive_of_another_size_is_refused(small, tmp_path):
    small.files["93/data_aishell3.tgz"] += b"more"
    size = len(small.files["93/data_aishell3.tgz"])
    with pytest.raises(UserError, match=rf"{size:,} bytes instead of {size - 4:,} twice"):
        fetch_corpus(tmp_path, "aishell3", small.url, log=lambda line: None)
    assert list(tmp_path.iterdir()) == []
    assert openslr_cli.main(["aishell9", str(tmp_path)]) == 1


@pytest.mark.launcher
def test_the_scripts_run(tmp_path):
    scripts = Path(__file__).resolve().parents[1] / "scripts"
    put(tmp_path / "t", THCHS30)
    command = [
        sys.executable,
        scripts / "manifest.py",
        "corpora",
        f"thchs30={tmp_path}/t",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "thchs30_train_manifest.jsonl: 2 utterances" in done.stdout
    command = [sys.executable, scripts / "openslr.py", "--help"]
    assert "magicdata" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
