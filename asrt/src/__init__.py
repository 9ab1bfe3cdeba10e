"""ASRT: configuration, networks, tokenizer and recipe."""
