"""Does a planned cascade of four stages stand in for ranking the whole catalogue?

The same ranker twice: behind retrieval and pre-ranking, at depths that the planner chose on validation
queries, and over every item of the catalogue. Held against each other on test queries: nDCG@10 with paired
intervals, Overlap@10, and the time of single requests in turns; funnels of one, two and three stages beside
them.

    python -m benchmarks.whole_catalogue                             # all settings, seed 1
    python -m benchmarks.whole_catalogue ml-1m-time --data <ml-1m> --seeds 1 2 3
    python -m benchmarks.whole_catalogue --table
"""
