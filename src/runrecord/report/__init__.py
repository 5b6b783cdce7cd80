"""One page about runs, side by side, with their spread over seeds.

In: views of records. Out: one HTML file. Only `runrecord report` calls it.
"""
