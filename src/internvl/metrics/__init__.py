"""Measures as pure functions on plain Python values. Each names its paper, and where the original differs."""
