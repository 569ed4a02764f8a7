"""What every other folder builds on: programs and their sites, random streams, checks, processes."""

__version__ = "0.1.0"
