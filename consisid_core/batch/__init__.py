"""Many videos: a graph run over a table, on one machine, on a Ray cluster, or on ComfyUI servers of somebody else.

    manifest.csv + graph -> table, graph, plan    what is to be made: one item a row, with a key of its content
    items -> dispatch                             which worker makes which item next, and what follows a failure
    task -> backends (local | ray | urls)         workers, each with one headless ComfyUI
    outcome -> run_folder                         videos and one line per item, from which a second start goes on

State lies in files alone. Whoever is killed, worker or driver, costs what was in the making.
`parallel` makes one video on several GPUs.
"""
