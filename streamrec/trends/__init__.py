"""Trending items: windowed counts of the events topic, published in the trends topic every few seconds.

    counts.py     one input partition's counts: what changed, what to publish of it, what the table must keep
    totals.py     for readers: the partitions' counts added up
    app.py        the Faust app around the counts
    committed.py  Faust's consumer, passing over what was aborted
    watchdog.py   ends a process that stands still
    page.py       GET /trends

The first two know nothing of Faust, Kafka or the wall clock. `engine/trending/windows.py` has the windows themselves,
`engine/trending/table.py` what workers read. `import streamrec` loads no Faust.
"""
