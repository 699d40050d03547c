"""IR to IR. One file a pass, named by a verb; nouns are what passes share. pipeline.py lists them
in order."""
