"""Importance weights and what they say: log p(x), its error, certificates and comparisons."""
