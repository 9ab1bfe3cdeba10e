"""Which tests need what, and fixtures that several files share.

MindSpore loads only where a test asks for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Shells have what they start in the background ignore SIGINT, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

from common.utils import runtime  # noqa: E402

runtime.set_environment()  # before any test loads mindspore

# ---- markers

# The markers of each file's tests; pyproject.toml says what a marker means. Where there are
# several, tests have the first, unless a decorator gives them another.
FILES = {
    "test_align": "unit",
    "test_api": "training unit launcher",
    "test_architecture": "unit launcher training",
    "test_archives": "unit",
    "test_asrt": "training",
    "test_asrt_text": "unit",
    "test_ascend310_infer": "cpp",
    "test_audio": "unit",
    "test_audio_containers": "unit launcher",
    "test_augment": "unit",
    "test_bad_input": "unit",
    "test_batch_inference": "training",
    "test_batching": "unit",
    "test_beam": "unit",
    "test_benchmarks": "unit",
    "test_cards": "unit",
    "test_checkpoint": "unit launcher",
    "test_cli": "training launcher",
    "test_confidence": "unit",
    "test_config": "unit training",
    "test_contract": "training",
    "test_conversion": "unit",
    "test_convolution": "training",
    "test_corpus": "unit",
    "test_cpp_onnx": "cpp",
    "test_cpp_streaming": "cpp",
    "test_dataset": "unit",
    "test_decoding": "unit",
    "test_deepspeech_pytorch": "training",
    "test_doctor": "unit training launcher",
    "test_evaluation": "training",
    "test_export": "training",
    "test_features": "unit",
    "test_film": "unit",
    "test_forced_alignment": "unit",
    "test_fuzz": "unit",
    "test_graph_cache": "training",
    "test_history": "unit",
    "test_infer_audio": "cpp",
    "test_jasper": "training launcher",
    "test_language": "unit",
    "test_launchers": "launcher",
    "test_launching": "launcher",
    "test_librispeech": "unit launcher",
    "test_light_engine": "unit launcher",
    "test_logging": "unit",
    "test_long_recordings": "unit",
    "test_mandarin": "unit",
    "test_mandarin_corpora": "unit launcher",
    "test_manifest": "unit launcher",
    "test_markers": "unit launcher",
    "test_metrics": "unit",
    "test_mindrecord": "unit launcher",
    "test_model": "training",
    "test_ngram_estimation": "unit",
    "test_nn": "training",
    "test_nemo": "training",
    "test_nvidia": "training",
    "test_old_files": "training",
    "test_onnx_export": "training",
    "test_onnx_features": "unit",
    "test_onnx_metadata": "unit",
    "test_optimizer": "training",
    "test_original_yaml": "unit",
    "test_packaging": "launcher",
    "test_planner": "unit",
    "test_precision": "training",
    "test_preflight": "unit launcher",
    "test_pretrained": "training launcher",
    "test_quickstart": "unit launcher",
    "test_ranks": "training launcher",
    "test_report": "unit",
    "test_run_infer_310": "launcher cpp",
    "test_runtime": "unit launcher",
    "test_scaling": "unit",
    "test_schedules": "unit",
    "test_segmentation": "unit",
    "test_segments": "unit",
    "test_selection": "unit",
    "test_soak": "unit launcher",
    "test_steps": "training",
    "test_streaming": "unit",
    "test_suspects": "training unit launcher",
    "test_tables": "unit",
    "test_text": "unit",
    "test_torch_weights": "unit launcher",
    "test_training": "training launcher",
    "test_transcript_formats": "unit",
    "test_transcripts": "unit launcher",
    "test_web": "launcher",
    "test_word_alignment": "unit",
    "test_word_scores": "unit",
}
MARKERS = {marker for markers in FILES.values() for marker in markers.split()}
# Each takes minutes. They run first, so that both workers end at about the same time.
LONG_FILES = ["test_training", "test_config"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a test of the one chosen marker: many take seconds to import."""
    markers = FILES.get(collection_path.stem, "").split()
    chosen = config.option.markexpr
    return True if markers and chosen in MARKERS and chosen not in markers else None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        markers = FILES.get(item.path.stem, "").split()
        own = {mark.name for mark in item.iter_markers()} & MARKERS
        if markers and not own <= set(markers):
            raise pytest.UsageError(
                f"{item.nodeid} is marked {', '.join(own)}: add this to FILES in tests/conftest.py"
            )
        if markers and not own:
            item.add_marker(markers[0])
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


# ---- REQUIRE_ALL_TESTS=1: nothing that could be installed may be missing

# Beginnings of the reasons that no installation mends. All others name what to install.
# The page in web/ is tested in a browser by whoever installs one: CONTRIBUTING.md. MindSpore Lite's
# wheel has 0.2 GB and is for Python 3.7: docs/inference.md.
EXCUSES = ("needs /proc/cpuinfo", "needs a browser", "needs the wheel of MindSpore Lite")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip, except of one with an excuse or of an expected failure."""
    if os.environ.get("REQUIRE_ALL_TESTS") != "1" or not report.skipped:
        return
    if hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not reason.startswith(EXCUSES):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL_TESTS=1 allows no skipped test: {reason}"


# ---- fixtures


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names the folder that all workers of this run share, in the environment."""
    own = tmp_path_factory.getbasetemp()
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    os.environ["TESTS_SHARED_FOLDER"] = str(own if alone else own.parent)


@pytest.fixture(scope="session")
def cpu() -> str:
    """MindSpore on the CPU in graph mode, as the entry points set it up."""
    return runtime.set_device("CPU")


@pytest.fixture
def small_model():
    """A ModelConfig of DeepSpeech2 that compiles and runs in little time."""
    from deepspeech2.src.config import ModelConfig

    return ModelConfig(
        hidden_size=8,
        hidden_layers=2,
        conv_channels=3,
        lookahead_context=3,
        conv_kernels=[[5, 3], [3, 5]],
        conv_strides=[[2, 2], [2, 1]],
    )


@pytest.fixture
def server() -> Iterator[object]:
    """A server on loopback, `loopback.Server`."""
    from loopback import Server

    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
