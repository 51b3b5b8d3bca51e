"""The same programs on a real Linux kernel under QEMU: the authority that the models answer to."""
