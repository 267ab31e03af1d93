"""Measuring: a load tool for any OpenAI-compatible endpoint."""
