"""The oracle: decides whether what the two kernels did is the same, up to the intended differences of the ledger.

`observe` reads one kernel, `compare` holds two observations against each other after every operation, `rules` and
`ledger` say which differences are intended and exactly how large they are, `invariants` looks at one kernel alone,
`finding` names what is left.
"""
