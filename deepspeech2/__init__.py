"""DeepSpeech2 for MindSpore. Importing it loads neither MindSpore nor a network."""
