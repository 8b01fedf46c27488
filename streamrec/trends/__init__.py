"""What is wanted more than before: windowed counts of the events topic, said again and again in the trends topic.

    counts.py    one input partition's counts: what changed, what is to be said of it, what a table must keep
    board.py     what readers make of it: the partitions' statements added up
    app.py       the Faust app around the counts
    watchdog.py  ends a process that stands still
    page.py      GET /trends

The first two know nothing of Faust, Kafka or the wall clock. `engine/trending/windows.py` has the windows themselves,
`engine/trending/table.py` what workers make of what is said. `import streamrec` loads no Faust.
"""
