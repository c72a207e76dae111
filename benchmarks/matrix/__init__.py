"""Do the models of the interaction matrix order BM25's first hundred better than BM25 does?

KNRM, Conv-KNRM, DRMM and MatchPyramid over stems, on NFCorpus (train queries teach, dev chooses, test tells)
and on Cranfield (five folds of its queries: three teach, one chooses the epoch, one tells), each alone and
with BM25's score as pair field. Every cell is a file below ``results/matrix``; what is there is not run
again, so the run resumes. ``--summary`` only compares what is there.

Word vectors: ``random`` ones that learn; ``frozen`` ones, of the singular value decomposition of the corpus'
PPMI (Levy and Goldberg, NIPS 2014), which see no judgement; ``slow``, the same ones learning a little. Which
is chosen per model on NFCorpus' dev queries by the model alone, and taken to Cranfield as it is. Budgets are
small (see STEPS: a few thousand lists of 12 documents) and other options are not searched.
"""
