"""Models that are part of the distribution."""
