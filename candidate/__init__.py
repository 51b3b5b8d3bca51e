"""The unified vmemmap optimization framework: one section order decides mapping, accounting and struct-page
initialisation.
"""
