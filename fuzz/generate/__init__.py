"""Generation of programs against the live state of the reference: see `fuzz.generate.operations`."""
