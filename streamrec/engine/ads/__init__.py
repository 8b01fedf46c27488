"""Items with a bid and a budget: what showing one is worth, what a click costs, how spending is paced."""
