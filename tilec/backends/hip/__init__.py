"""The HIP dialect: header-free text for clang (19 and newer; 20 for gfx950) and hiprtc, for gfx90a,
gfx942 and gfx950, waves of 64.
"""
