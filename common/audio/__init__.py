"""Recordings, features and augmentation. Loads no MindSpore."""
