"""What conftest.py does to the tests: markers, and REQUIRE_ALL_TESTS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXCUSES, FILES, LONG_FILES

TESTS = Path(__file__).resolve().parent

SKIPS = f"""
import pytest

def test_passes(): pass
def test_skips(): pytest.skip("needs cmake and a C++ compiler")
def test_lacks_a_package(): pytest.importorskip("no_such_package")
def test_is_excused(): pytest.skip("{EXCUSES[0]}")
@pytest.mark.skipif(True, reason="needs libsndfile")
def test_is_skipped_by_a_marker(): pass
@pytest.mark.xfail
def test_is_expected_to_fail(): assert False
"""


def test_every_test_file_has_markers():
    on_disk = {path.stem for path in TESTS.glob("test_*.py")}
    assert on_disk - set(FILES) == set(), "tests/conftest.py: FILES says which tests need what"
    assert set(LONG_FILES) <= on_disk


def run(folder: Path, *arguments: str, **environment: str) -> str:
    """What pytest says about the files in the folder, with this conftest.py."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.launcher
def test_what_is_missing_fails_where_all_tests_are_required(tmp_path):
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "test_lacks.py").write_text("import pytest\npytest.importorskip('nothing')\n")
    assert "1 passed, 5 skipped, 1 xfailed" in run(tmp_path, REQUIRE_ALL_TESTS="")
    said = run(tmp_path, "--continue-on-collection-errors", REQUIRE_ALL_TESTS="1")
    assert "2 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors" in said
    reasons = "|".join(re.findall("REQUIRE_ALL_TESTS=1 allows no skipped test: (.*)", said))
    for reason in ("a C++ compiler", "'no_such_package'", "libsndfile", "'nothing'"):
        assert reason in reasons


@pytest.mark.launcher
def test_one_marker_chooses_the_files_that_have_it(tmp_path):
    """A file of other tests is not even imported."""
    (tmp_path / "test_training.py").write_text("raise ImportError")
    (tmp_path / "test_text.py").write_text("def test_text(): pass\n")
    (tmp_path / "test_cli.py").write_text(
        "import pytest\ndef test_trains(): pass\n@pytest.mark.launcher\ndef test_starts(): pass\n"
    )
    assert "1 passed" in run(tmp_path, "-m", "unit")
    said = run(tmp_path, "-m", "launcher", "--ignore", "test_training.py", "-v", "-v")
    assert "test_starts PASSED" in said and "test_trains" not in said

    (tmp_path / "test_text.py").write_text(
        "import pytest\n@pytest.mark.cpp\ndef test_text(): pass\n"
    )
    said = run(tmp_path, "test_text.py")
    assert "test_text is marked cpp: add this to FILES in tests/conftest.py" in said
