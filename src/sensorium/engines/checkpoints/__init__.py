"""Checkpoints from a model hub: fetched, checked, found again."""
