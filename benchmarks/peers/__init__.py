"""The contestants of `benchmarks.speed`.

Each is a command, `python -m benchmarks.peers.NAME WORK`, run by the Python of an environment that
has its library.
"""
