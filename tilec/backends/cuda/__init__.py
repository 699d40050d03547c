"""The CUDA dialect: header-free text that NVRTC and nvcc both compile, for sm_80 and newer."""
