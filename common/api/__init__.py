"""The Python API: what `import deepspeech2` and `import jasper` offer, over any recipe.

Importing it loads no MindSpore.
"""

from common.api.functions import ModelFunctions
from common.api.recognizer import Recognizer, Transcript
from common.api.streaming import Segment, StreamingRecognizer
from common.decoding.word_alignment import Word
from common.utils.errors import UserError

__all__ = [
    "ModelFunctions",
    "Recognizer",
    "Segment",
    "StreamingRecognizer",
    "Transcript",
    "UserError",
    "Word",
]
