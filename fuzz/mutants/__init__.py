"""The mutation score of the fuzzer: small faults in the models and the oracle, each to be found by a short smoke.

`operators` says how one syntax node may be spoiled, `sites` finds all such places of a module and puts one of them
into the running process, `budget` is the smoke that has to notice, `run` forks a process for each mutant and keeps the
results.
"""
