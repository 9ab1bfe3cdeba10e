"""Layers that honour the lengths of padded utterances."""
