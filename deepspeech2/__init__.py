"""DeepSpeech2 (Amodei et al. 2016, arXiv 1512.02595) on MindSpore.

    import deepspeech2

    model = deepspeech2.load()
    print(model.transcribe("a.wav").text)

Importing it loads no MindSpore.
"""

from common import __version__
from common.api import ModelFunctions, Recognizer, Transcript, UserError, Word
from deepspeech2.src.recipe import RECIPE

_functions = ModelFunctions(RECIPE)
load = _functions.load
config = _functions.config
convert = _functions.convert
train = _functions.train
evaluate = _functions.evaluate
export = _functions.export

__all__ = [
    "RECIPE",
    "Recognizer",
    "Transcript",
    "UserError",
    "Word",
    "__version__",
    "config",
    "convert",
    "evaluate",
    "export",
    "load",
    "train",
]
