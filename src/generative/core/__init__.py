"""What decides every training, and nothing else: a stage's `deps` name this folder as a whole."""
