"""Campaigns: many processes that fuzz for minutes or weeks, and lose nothing.

    start       a campaign from a user's options
    campaign    the loop: results in, files and announcements out
    pool        worker processes on this machine; `machines` has them on many, by Dask
    worker      the process that runs an engine, `slices` what it does
    findings    from a discovery to a report: minimized, run again, announced
    helper      the process that minimizes or runs again what may kill it
    numbers     the one registry of statistics: terminal, JSON lines, Prometheus
    settings    what a campaign is, and where it stands; `rebuild` makes the index from the files
    corpus      what `vmemmap-fuzz corpus` does

Who may write: the one process that runs the campaign. Workers and helpers get work on stdin and answer on stdout;
what they were doing when they died is in a trail (`fuzz.trail`), so the campaign can try that program once more, in a
process of its own, and keep it if it is to blame.

What is announced was written before: record, report folder, journal, then the line on the terminal.
"""
