"""Jasper (Li et al. 2019, arXiv 1904.03288) and QuartzNet (Kriman et al. 2019) on MindSpore.

    import jasper

    model = jasper.load()
    print(model.transcribe("a.wav").text)

Importing it loads no MindSpore.
"""

from common import __version__
from common.api import ModelFunctions, Recognizer, Transcript, UserError, Word
from jasper.src.recipe import RECIPE

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
