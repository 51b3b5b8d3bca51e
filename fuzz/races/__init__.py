"""Races: an engine looks for a planted defect, until the oracle reports it or the time is up.

`trial` runs one, `probe` watches the changed code, `run` runs many and keeps the results, `summary` and `plot` say what
they mean. `vmemmap-fuzz zoo`, `vmemmap-fuzz smoke` and `bench/engines.py` have them from here.
"""
