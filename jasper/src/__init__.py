"""Jasper: configuration, network and recipe."""
