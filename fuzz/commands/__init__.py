"""The commands of `vmemmap-fuzz`, one module for those that belong together; `fuzz.cli` puts them in order."""
