"""Made-up shoppers who read slates and answer them: a closed loop in which the true worth of every slate is known.

    world = World(WorldSettings(seed=1))
    episode = simulate(world, WorkerSystem(Settings()))
    episode.expected.sum() / episode.best.sum()  # share of what the best slates would have earned

Everything happens in log time, and every draw is a function of the seed, the shopper and the shopper's own step: two
policies in equal worlds meet the same shoppers (common random numbers), and one seed gives one log.
"""
