"""What came of policies that were tried on people, and whether one may be trusted with more of them.

    outcomes > slates > users or duels > confidence sequence > verdict > gate

Knows nothing of topics, stores or the wall clock: outcomes come in, figures and words go out.
"""
