"""The small default: every net of a ConsisID, trained on synthetic people by one command on one machine."""
