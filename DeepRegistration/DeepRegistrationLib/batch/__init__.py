"""Many pairs: a table of them, worker processes or a Dask cluster to do them, and a summary of how it went.

* `rows`: what is to be done, from a table or file patterns, checked;
* `names`: what the results are called, BIDS entities kept;
* `pair`: one row, from files to a finished folder; runs in a worker process;
* `pool`: worker processes of this machine; `cluster`: those of a Dask cluster;
* `run`: all of it, resumable; `summary` and `page`: the numbers and the pictures, worst first.
"""
