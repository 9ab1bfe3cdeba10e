"""Transcripts and the tokenizers that spell them."""
