"""Losses and densities as compiled graphs."""
