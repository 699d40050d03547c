"""The CPU dialect: the same bodies against checked classes, for the emulator (C++17, g++ or
clang++)."""
