"""From ranked candidates to a slate: chosen by a policy, composed, explained."""
