"""Shared code of DeepSpeech2 and Jasper. Importing it does nothing else.

The sub-packages, from the ground up; each imports only from those before it:

utils < text, nn < config, decoding < audio < model < data, interop < memory < evaluation
< training, export < doctor < cli
"""
