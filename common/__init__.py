"""Shared code of DeepSpeech2, Jasper and ASRT. Importing it does nothing else.

The sub-packages, from the ground up; each imports only from those before it:

utils < launching < text, nn < config, decoding < audio < model < data, interop < memory
< evaluation < training, export < api, doctor < cli
"""

__version__ = "2.0.0"  # of the whole project: the package, what it writes, and `--version`
