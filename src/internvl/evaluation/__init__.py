"""Benchmarks as values, one runner that asks, scorers that read what was answered."""
