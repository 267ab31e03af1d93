"""Using a model: sampling, generation, beam search, and `Chat`, the object people hold."""
