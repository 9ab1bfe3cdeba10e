"""Fixtures that several test files share. mindspore loads only where a test asks for the device."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Shells have what they start in the background ignore SIGINT, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

from common.utils import runtime  # noqa: E402

runtime.set_environment()  # before any test loads mindspore


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
