"""
The benchmarks: what a durable delivery costs, in `bare`, a signed request without a store and without a queue.

Each scenario is a process of its own (`python -m hookengine.bench.embedded --help`), so that none pays for another's memory.
"""
