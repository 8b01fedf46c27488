"""Online experiments: what each policy earned, which one is better, and whether one may be rolled out further.

    outcomes > slates > arms or interleaving > confidence sequence > significance > gate

Knows nothing of topics, stores or the wall clock: outcomes come in; figures and words go out.
"""
