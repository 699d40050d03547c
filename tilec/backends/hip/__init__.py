"""The HIP dialect: header-free text for clang (19 and newer) and hiprtc, for gfx90a and gfx942,
waves of 64.
"""
