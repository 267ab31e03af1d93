"""The web page of a server: a client of the same API, drawn by Gradio around a small component of our own."""
