"""A simulator: shoppers with known tastes read slates and respond, so the true expected reward of a slate is known.

    world = World(WorldSettings(seed=1))
    episode = simulate(world, WorkerSystem(Settings()))
    episode.expected.sum() / episode.best.sum()  # share of the best possible expected reward

All times are log time, and every random draw is a function of the seed, the shopper and the shopper's own step: two
policies in equal worlds meet the same shoppers (common random numbers), and equal seeds give equal logs.
"""
