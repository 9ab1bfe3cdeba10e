"""Write a checkpoint as MindIR or ONNX: python export.py --pre_trained_model_path CKPT"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli  # noqa: E402
from deepspeech2.src.recipe import RECIPE  # noqa: E402

if __name__ == "__main__":
    cli.run(cli.export, RECIPE)
