"""Serving what another process learns: the arrays that scores are made of, and how changes of them travel.

One process, the learner, folds the examples. Others hold the same components (items, models, fusion, policies), begin
with a snapshot, and take over what changed since, row by row; they answer by it and never learn.

    learner    served() of each component -> ModelChanges -> messages
    follower   messages -> UpdateAssembler -> FollowedArrays -> serve() of each component

Whoever begins with a snapshot of one moment and takes over every change after it holds, bit for bit, what the learner
serves. Knows nothing of topics, files or clocks.
"""
