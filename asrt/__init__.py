"""ASRT's Mandarin recognisers (github.com/nl8590687/ASRT_SpeechRecognition) on MindSpore.

    import asrt

    model = asrt.load("checkpoint/ASRT-best.ckpt")
    print(model.transcribe("a.wav").text)  # syllables: "ni3 hao3"

Importing it loads no MindSpore.
"""

from asrt.src.recipe import RECIPE
from common import __version__
from common.api import ModelFunctions, Recognizer, Transcript, UserError, Word

_functions = ModelFunctions(RECIPE)
load = _functions.load
config = _functions.config
convert = _functions.convert
# Not "train" and "export": these are modules of this package, the commands.
train_model = _functions.train
evaluate_model = _functions.evaluate
export_model = _functions.export

__all__ = [
    "RECIPE",
    "Recognizer",
    "Transcript",
    "UserError",
    "Word",
    "__version__",
    "config",
    "convert",
    "evaluate_model",
    "export_model",
    "load",
    "train_model",
]
