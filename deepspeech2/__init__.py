"""DeepSpeech2 (Amodei et al. 2016, arXiv 1512.02595) on MindSpore.

    import deepspeech2

    model = deepspeech2.load()
    print(model.transcribe("a.wav").text)

Importing it loads no MindSpore.
"""

from common import __version__
from common.api import ModelFunctions, Recognizer, StreamingRecognizer, Transcript, UserError, Word
from deepspeech2.src.recipe import RECIPE

_functions = ModelFunctions(RECIPE)
load = _functions.load
load_streaming = _functions.load_streaming
config = _functions.config
convert = _functions.convert
# Not "train" and "export": these are modules of this package, the commands.
train_model = _functions.train
evaluate_model = _functions.evaluate
export_model = _functions.export

__all__ = [
    "RECIPE",
    "Recognizer",
    "StreamingRecognizer",
    "Transcript",
    "UserError",
    "Word",
    "__version__",
    "config",
    "convert",
    "evaluate_model",
    "export_model",
    "load",
    "load_streaming",
    "train_model",
]
