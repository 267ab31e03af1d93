"""The OpenAI-compatible server: what is asked over HTTP, and what answers it."""
