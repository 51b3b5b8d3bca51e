"""Differential fuzzing of two models of the vmemmap optimization."""
