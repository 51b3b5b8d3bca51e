"""A campaign for people: pages that a server shows while it runs, the same pages as files, and their numbers.

`data` reads the campaign's index, `claims` runs its programs against the promises of the cover letter, `pages` makes
pages of both; `static` writes them, `server` serves them beside Datasette's view of the tables.
"""
