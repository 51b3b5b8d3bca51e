"""The unified vmemmap optimization framework: one section order decides mapping, accounting and initialisation.

Numbers such as 4.2 in comments are sections of the specification, unified-framework.md. What it could not confirm is
marked UNCONFIRMED here too.
"""
