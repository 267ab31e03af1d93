"""Architecture only: torch in, torch out. No files, no tokenizer, no pictures.

Read `chat.py` first; it is the figure of the paper. Nothing is imported here, so that configs are cheap to import.
"""
