"""Archives: what is unpacked, what is left alone, what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import soundfile

from common.data.corpora import build_an4, build_librispeech
from common.data.manifest import read_manifest
from common.utils.archives import unpack
from common.utils.errors import UserError


def pack(path: Path, files: dict[str, bytes], link: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return path


def flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, [0.1, -0.1] * 800, 16000, format="FLAC")
    return buffer.getvalue()


def test_members_outside_the_folder_are_not_unpacked(tmp_path):
    files = {"an4/etc/a.txt": b"abc", "an4/../escaped": b"", "/tmp/absolute": b"", "other/b": b""}
    path = pack(tmp_path / "a.tar.gz", files, link="an4/link")
    assert unpack(path, "an4", tmp_path) == tmp_path / "an4"
    found = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert found == {"a.tar.gz", "an4/etc/a.txt"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text", "damaged or incomplete"),
        ("cut", "damaged or incomplete"),
        ("other", "holds no an4/"),
    ],
)
def test_a_damaged_archive_leaves_no_files(tmp_path, content, message):
    path = pack(tmp_path / "a.tar.gz", {"an4/a": bytes(range(256)) * 400, "an4/b": b"b"})
    if content == "text":
        path.write_text("<html>not found</html>" * 100)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        pack(path, {"jasper/a": b""})
    with pytest.raises(UserError, match=rf"a\.tar\.gz: .*{message}"):
        unpack(path, "an4", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_librispeech_is_unpacked_from_its_archives(tmp_path):
    for name in ("train-clean-5", "dev-clean"):
        chapter = f"LibriSpeech/{name}/1/2/1-2"
        files = {f"{chapter}.trans.txt": b"1-2-0000 SO IT IS\n", f"{chapter}-0000.flac": flac()}
        pack(tmp_path / f"{name}.tar.gz", {"LibriSpeech/README.TXT": b"", **files})
    pack(tmp_path / "other.tar.gz", {"other/a": b""})
    made = build_librispeech(tmp_path, tmp_path / "data")
    assert {path.name: count for path, count in made.items()} == {
        "libri_train_clean_5_manifest.csv": 1,
        "libri_dev_clean_manifest.csv": 1,
        "libri_train_manifest.csv": 1,
        "libri_val_manifest.csv": 1,
    }
    assert not (tmp_path / "other").exists()
    (tmp_path / "train-clean-5.tar.gz").write_text("is not looked at again")
    assert build_librispeech(tmp_path, tmp_path / "data") == made


def test_partly_unpacked_librispeech_is_completed_from_archives(tmp_path):
    """dev-clean unpacked in the folder, test-clean in LibriSpeech/, train-clean-5 still packed."""

    def files(name: str) -> dict[str, bytes]:
        stem = f"{name}/1/2/1-2"
        text = f"1-2-0000 {name.upper()}\n".encode()
        return {f"{stem}.trans.txt": text, f"{stem}-0000.flac": flac()}

    for name, place in (("dev-clean", tmp_path), ("test-clean", tmp_path / "LibriSpeech")):
        for path, content in files(name).items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
    packed = {f"LibriSpeech/{path}": content for path, content in files("train-clean-5").items()}
    pack(tmp_path / "train-clean-5.tar.gz", packed)
    made = build_librispeech(tmp_path, tmp_path / "data")
    assert {path.name: read_manifest(path)[0].audio for path in made} == {
        f"libri_{name}_manifest.csv": tmp_path / folder / "1/2/1-2-0000.flac"
        for name, folder in {
            "dev_clean": "dev-clean",
            "test_clean": "LibriSpeech/test-clean",
            "train_clean_5": "LibriSpeech/train-clean-5",
            "train": "LibriSpeech/train-clean-5",
            "val": "dev-clean",
        }.items()
    }
    assert list(made.values()) == [1] * 5


@pytest.mark.parametrize("root", ["", "LibriSpeech"])
@pytest.mark.parametrize("packed", [True, False])
def test_librispeech_sorted_into_folders_is_found(tmp_path, root, packed):
    """As recipes of DeepSpeech2 keep it: archives, or what they hold, in train/, val/ and so on."""
    sets = {
        "train-clean-5": "train",
        "train-clean-7": "train",
        "dev-clean": "val",
        "test-clean": "test_clean",
        "test-other": "test_other",
    }
    for name, part in sets.items():
        stem = f"LibriSpeech/{name}/1/2/1-2"
        files = {f"{stem}.trans.txt": b"1-2-0000 A\n", f"{stem}-0000.flac": flac()}
        archive = pack(tmp_path / "LibriSpeech" / part / f"{name}.tar.gz", files)
        if not packed:
            unpack(archive, f"LibriSpeech/{name}", archive.parent)
    made = build_librispeech(tmp_path / root, tmp_path / "data")
    assert {path.name.removesuffix("_manifest.csv"): count for path, count in made.items()} == {
        "libri_train_clean_5": 1,
        "libri_train_clean_7": 1,
        "libri_dev_clean": 1,
        "libri_test_clean": 1,
        "libri_test_other": 1,
        "libri_train": 2,
        "libri_val": 1,
    }
    (utterance,) = read_manifest(tmp_path / "data/libri_dev_clean_manifest.csv")
    assert utterance.audio.read_bytes() == flac()
    assert ("val" in utterance.audio.parts) is not packed


def test_an4_is_unpacked_from_its_archive(tmp_path):
    files = {}
    for split, speaker in (("train", "fash"), ("test", "fcaw")):
        name = f"an4_clstk/{speaker}/cen1-{speaker}-b"
        files |= {
            f"an4/etc/an4_{split}.fileids": f"{name}\n".encode(),
            f"an4/etc/an4_{split}.transcription": f"<s> YES </s> (cen1-{speaker}-b)\n".encode(),
            f"an4/wav/{name}.sph": b"",
        }
    pack(tmp_path / "an4_sphere.tar.gz", files)
    made = build_an4(tmp_path, tmp_path / "data")
    assert list(made.values()) == [0, 1, 1]
