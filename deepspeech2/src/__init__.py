"""DeepSpeech2: configuration, network and recipe."""
