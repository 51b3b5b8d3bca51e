"""What a campaign keeps: files that are the truth, and an index of them.

`files` is the corpus and the findings, named by the hash of what they hold and written by rename, so that the folders
of two machines merge by union and a kill at any moment leaves each file whole or absent. `journal` holds what happened,
a line each. `index` is `campaign.db`, SQLite, made again from the others whenever it is missing or broken.
"""
