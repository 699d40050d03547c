"""What a manifest asks of the arguments of a call, and what its launches come to. The runtime calls
it, and `tilec build` writes it into the launcher that stands alone (cupy_launcher.py): so a file here
imports nothing of tilec but its neighbours, and takes manifests by their attributes, be they
manifest.py's or read from JSON by that launcher.
"""
