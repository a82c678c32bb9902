"""The small default: every net of a ConsisID, trained on synthetic people by one command on one machine."""

SET_NAME = "consisid_small"
"""Folder of the set among the models of its kind."""
