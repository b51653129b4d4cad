"""Experiments as code; installed as ``rfm.configs``."""
