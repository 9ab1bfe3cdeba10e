"""What DeepSpeech2 and Jasper share.

Importing this package settles the process-wide environment before mindspore can be loaded
(`common.runtime.set_environment`), and does nothing else.
"""

from common import runtime

runtime.set_environment()
